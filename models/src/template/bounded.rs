//! A template that is rendered within a budget.

use std::collections::BTreeMap;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value,
    machinery::{self, Instructions, get_compiled_template},
};

use super::{guards, program, source, weight};

/// The maximum nesting of macros and loops; each level takes a few kilobytes of the thread's stack.
const RECURSION_MAX: usize = 100;

/// A compiled template and its environment.
#[derive(Debug)]
pub struct BoundedTemplate {
    environment: Environment<'static>,
    name: &'static str,
    fuel: u64,
}

impl BoundedTemplate {
    /// Compiles `source` as the only template of `environment`. Rendering consumes at most `fuel`.
    ///
    /// Keeps the syntax, undefined behavior, filters and functions of `environment`, except for
    /// `debug()`, whose output is unbounded. Functions and filters that the caller adds must limit
    /// their own work.
    ///
    /// # Errors
    ///
    /// If the source is too long, too deeply nested or not a valid template, or uses features that
    /// cannot be bounded: other templates, or unpacked arguments (`f(*list)`).
    pub fn new(
        mut environment: Environment<'static>,
        name: &'static str,
        source: String,
        fuel: u64,
    ) -> Result<Self, Error> {
        source::check(&source, name, environment.syntax().clone())?;
        environment.set_fuel(Some(fuel));
        environment.set_recursion_limit(RECURSION_MAX);
        // In debug mode, errors print all variables.
        environment.set_debug(false);
        environment.remove_global("debug");
        guards::add_to(&mut environment);
        environment.add_template_owned(name, source)?;
        let this = Self { environment, name, fuel };
        this.with_program(|_, _| Ok(()))?;
        Ok(this)
    }

    /// Returns the environment. The template has its given name there.
    #[must_use]
    pub fn environment(&self) -> &Environment<'static> {
        &self.environment
    }

    /// Renders the template.
    ///
    /// # Errors
    ///
    /// The errors of the template; [`ErrorKind::OutOfFuel`] if it takes too much time or memory.
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
                    "the template takes more than {} steps or produces more than {megabytes} MB; \
                     shorten its loops, lists or texts",
                    self.fuel
                );
                Err(Error::new(ErrorKind::OutOfFuel, problem))
            }
            Err(error) => Err(error),
        }
    }

    /// Calls `work` with the guarded instructions of the template and of its blocks. They borrow
    /// the environment, so they are built for each rendering, which takes a few microseconds.
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

/// Returns whether the fuel ran out, here or in a nested call.
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
