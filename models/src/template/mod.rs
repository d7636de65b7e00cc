//! Templates that end, in bounded time and memory, whoever wrote them.
//!
//! A chat template comes with a bundle, so it is as untrusted as the bundle. minijinja's fuel counts
//! instructions and most bytes, but it looks only at the outside of a list: `["x" * 900000] * 7000 | join`
//! is one small list to it and 6 GB of text. Three layers close this:
//!
//! - *fuel* (minijinja): one unit is one instruction or 64 bytes of text or list that are made;
//! - *guards* ([`guards`]): before an operator, filter, test or method reads the inside of a list or map,
//!   all there is inside has to fit into the fuel that is left. [`program`] puts the calls of the guards
//!   into the instructions, so a template cannot go around them;
//! - *source* ([`source`]): what compiling could overflow on is refused, because it takes no fuel.
//!
//! So a rendering makes at most a few times `fuel` * 64 bytes: 64 MB of text with a million units, as chat
//! templates have. The worst of 70 hostile templates took 0.65 s and 79 MiB.

use std::collections::BTreeMap;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value,
    machinery::{self, Instructions, get_compiled_template},
};

mod guards;
mod program;
mod source;
mod weight;

/// Macros and loops within each other, at most; every level takes a few kilobytes of the thread's stack.
const RECURSION_MAX: usize = 100;

/// A compiled template and its environment.
#[derive(Debug)]
pub struct BoundedTemplate {
    environment: Environment<'static>,
    name: &'static str,
    fuel: u64,
}

impl BoundedTemplate {
    /// Compiles `source` as the only template of `environment`, whose renderings take at most `fuel`.
    ///
    /// Syntax, undefined behaviour, filters and functions of `environment` stay, but for `debug()`, which
    /// prints without bound. A function or filter that the caller adds has to bound its own work.
    ///
    /// # Errors
    ///
    /// The source is too long or too nested, is not a template, or uses what cannot be bounded: other templates, or
    /// arguments that are unpacked (`f(*list)`).
    pub fn new(
        mut environment: Environment<'static>,
        name: &'static str,
        source: String,
        fuel: u64,
    ) -> Result<Self, Error> {
        source::check(&source, name, environment.syntax().clone())?;
        environment.set_fuel(Some(fuel));
        environment.set_recursion_limit(RECURSION_MAX);
        // With it, errors print all variables.
        environment.set_debug(false);
        environment.remove_global("debug");
        guards::add_to(&mut environment);
        environment.add_template_owned(name, source)?;
        let this = Self { environment, name, fuel };
        this.with_program(|_, _| Ok(()))?;
        Ok(this)
    }

    /// Returns the environment, in which the template has the name that it was given.
    #[must_use]
    pub fn environment(&self) -> &Environment<'static> {
        &self.environment
    }

    /// Renders the template.
    ///
    /// # Errors
    ///
    /// What the template raises; [`ErrorKind::OutOfFuel`] where it takes too much time or memory.
    pub fn render(&self, values: Value) -> Result<String, Error> {
        let mut text = String::new();
        let rendered = self.with_program(|program, blocks| {
            let mut output = machinery::make_string_output(&mut text);
            let escape = AutoEscape::None;
            machinery::eval(&self.environment, program, values, blocks, &mut output, escape)
                .map(drop)
        });
        match rendered {
            Ok(()) => Ok(text),
            Err(error) if is_out_of_fuel(&error) => {
                let megabytes = self.fuel * weight::UNIT_BYTES / 1_000_000;
                let problem = format!(
                    "the template takes more than {} steps or makes more than {megabytes} MB; \
                     shorten its loops, lists or texts",
                    self.fuel
                );
                Err(Error::new(ErrorKind::OutOfFuel, problem))
            }
            Err(error) => Err(error),
        }
    }

    /// Calls `work` with the guarded instructions of the template and of its blocks. They borrow the
    /// environment, so they are made for each rendering: some microseconds.
    fn with_program<T>(
        &self,
        work: impl FnOnce(&Instructions<'_>, &BTreeMap<&str, Instructions<'_>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let template = self.environment.get_template(self.name)?;
        let plain = get_compiled_template(&template);
        let program = program::guarded(&plain.instructions)?;
        let mut blocks = BTreeMap::new();
        for (name, block) in &plain.blocks {
            blocks.insert(*name, program::guarded(block)?);
        }
        work(&program, &blocks)
    }
}

/// Returns whether fuel ran out, here or within a call.
fn is_out_of_fuel(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
