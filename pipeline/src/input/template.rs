//! Prompt templates: Jinja syntax over the columns of a row, without access to anything else.
//!
//! Each column is a variable, `{{ title }}`, and takes precedence over an engine function of that name. `row`
//! contains every column by name, for names that are not identifiers: `{{ row["Review Text"] }}`. In a table
//! with a column `row`, `row` is that column.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use arrow::datatypes::Schema;
use legenda_models::template::BoundedTemplate;
use legenda_schemas::suggest::{closest, did_you_mean};
use minijinja::{
    Environment, ErrorKind, UndefinedBehavior,
    machinery::{Instruction, Instructions, get_compiled_template},
    value::{Serde, Value as Shown},
};
use serde_json::{Map, Value};

use crate::base::excerpt::excerpt;
use crate::input::source::column::holds_bytes;

/// The maximum instructions of a template per row, which ends loops over huge ranges, as does the limit of
/// 64 MB of text: far above any usable `limits.text_bytes`. A plain template takes a few dozen.
const FUEL: u64 = 1_000_000;
const NAME: &str = "prompt";
/// The variable that contains all columns.
const ROW: &str = "row";
/// Variables set by the engine.
const LOCALS: [&str; 4] = ["loop", "self", "super", "caller"];

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    key: &'static str,
    template: BoundedTemplate,
    names: Names,
}

/// The names used by a template.
#[derive(Clone, Debug, Default)]
struct Names {
    /// Variables that are read.
    read: BTreeSet<String>,
    /// Variables that the template sets itself.
    set: BTreeSet<String>,
    /// The uses of `row`.
    row_columns: RowColumns,
}

/// The columns that a template reads through `row`.
#[derive(Clone, Debug, Default)]
struct RowColumns {
    named: BTreeSet<String>,
    /// Whether the columns are only known during rendering.
    may_be_any: bool,
}

/// An error of a template, or of rendering a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The syntax is invalid.
    #[error("`{key}` is not a valid template")]
    Syntax {
        /// The key of the job file.
        key: &'static str,
        /// The cause, with its line.
        source: minijinja::Error,
    },
    /// A filter, test or function does not exist.
    #[error("`{key}`: unknown {kind} `{name}` in line {line}{suggestion}")]
    UnknownName {
        /// The key of the job file.
        key: &'static str,
        /// The kind of name.
        kind: Kind,
        /// Its name.
        name: String,
        /// The line in the template.
        line: usize,
        /// A suggestion as the end of a sentence; may be empty.
        suggestion: String,
    },
    /// A variable is not a column.
    #[error(
        "`{key}`: `{variable}` is not a column of the table; available columns: {available}{suggestion}"
    )]
    UnknownVariable {
        /// The key of the job file.
        key: &'static str,
        /// The name.
        variable: String,
        /// The available columns.
        available: String,
        /// A suggestion as the end of a sentence; may be empty.
        suggestion: String,
    },
    /// Rendering a row failed.
    #[error("failed to render the prompt template: {problem}")]
    Render {
        /// The cause.
        problem: String,
    },
}

/// The kind of an engine name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{{ text | filter }}`.
    Filter,
    /// `{% if text is test %}`.
    Test,
    /// `{{ function() }}`.
    Function,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Test => "test",
            Self::Function => "function",
        })
    }
}

impl Kind {
    /// The names for suggestions; the engine does not expose all of its own.
    const FILTERS: &'static str = "abs batch bool capitalize chain count default dictsort escape \
        first float format groupby indent int items join last length lines list lower map max min \
        replace reverse round slice sort split string title tojson trim upper";
    const TESTS: &'static str = "boolean defined divisibleby endingwith even float integer iterable \
        mapping none number odd sequence startingwith string undefined";

    /// Returns whether the engine has a name of this kind.
    fn exists(self, name: &str, environment: &Environment<'_>) -> bool {
        let mut state = environment.empty_state();
        // Without arguments it fails, but with a different error than an unknown name.
        let (error, unknown) = match self {
            Self::Filter => (state.apply_filter(name, &[]).err(), ErrorKind::UnknownFilter),
            Self::Test => (state.perform_test(name, &[]).err(), ErrorKind::UnknownTest),
            Self::Function => return environment.globals().any(|(global, _)| global == name),
        };
        error.is_none_or(|error| error.kind() != unknown)
    }

    fn suggestion(self, name: &str, environment: &Environment<'_>) -> String {
        match self {
            Self::Filter => did_you_mean(name, Self::FILTERS.split(' ')),
            Self::Test => did_you_mean(name, Self::TESTS.split(' ')),
            Self::Function => did_you_mean(name, environment.globals().map(|(name, _)| name)),
        }
    }
}

impl Names {
    /// Collects the names in a template of `environment`.
    fn new(key: &'static str, environment: &Environment<'_>) -> Result<Self, TemplateError> {
        let mut this = Self::default();
        let template = environment
            .get_template(NAME)
            .map_err(|source| TemplateError::Syntax { key, source })?;
        let compiled = get_compiled_template(&template);
        let mut used: Vec<(Kind, String, usize)> = Vec::new();
        this.add(&compiled.instructions, &mut used);
        compiled.blocks.values().for_each(|block| this.add(block, &mut used));
        let is_own = |name: &str| this.set.contains(name) || LOCALS.contains(&name);
        let unknown = used.into_iter().find(|(kind, name, _)| {
            !(kind.exists(name, environment) || *kind == Kind::Function && is_own(name))
        });
        match unknown {
            None => Ok(this),
            Some((kind, name, line)) => {
                let suggestion = kind.suggestion(&name, environment);
                Err(TemplateError::UnknownName { key, kind, name, line, suggestion })
            }
        }
    }

    /// Adds the variables of some instructions; appends the engine names they use, with their lines, to
    /// `used`.
    fn add(&mut self, instructions: &Instructions<'_>, used: &mut Vec<(Kind, String, usize)>) {
        for idx in 0.. {
            let Some(instruction) = instructions.get(idx) else { break };
            let mut uses = |kind, name: &str| {
                used.push((kind, name.to_owned(), instructions.get_line(idx).unwrap_or(1)));
            };
            match instruction {
                Instruction::Lookup(name) => {
                    self.read.insert((*name).to_owned());
                    if *name == ROW {
                        self.row_columns.add(instructions.get(idx + 1), instructions.get(idx + 2));
                    }
                }
                Instruction::StoreLocal(name) => {
                    self.set.insert((*name).to_owned());
                }
                Instruction::CallFunction(name, _) => uses(Kind::Function, name),
                Instruction::ApplyFilter(name, ..) => uses(Kind::Filter, name),
                Instruction::PerformTest(name, ..) => uses(Kind::Test, name),
                _ => {}
            }
        }
    }
}

impl RowColumns {
    /// Adds the use of `row` by the two instructions after the one that loads it.
    fn add(&mut self, next: Option<&Instruction<'_>>, then: Option<&Instruction<'_>>) {
        let name = match (next, then) {
            (Some(Instruction::GetAttr(name)), _) => Some(*name),
            (Some(Instruction::LoadConst(name)), Some(Instruction::GetItem)) => name.as_str(),
            _ => None,
        };
        match name {
            Some(name) => {
                self.named.insert(name.to_owned());
            }
            None => self.may_be_any = true,
        }
    }
}

impl Template {
    /// Compiles the template `source` of `key` in the job file.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Syntax`], [`TemplateError::UnknownName`].
    pub fn compile(key: &'static str, source: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let template = BoundedTemplate::new(environment, NAME, source.to_owned(), FUEL);
        let template = template.map_err(|source| TemplateError::Syntax { key, source })?;
        let names = Names::new(key, template.environment())?;
        Ok(Self { key, template, names })
    }

    /// Returns the columns of a table that the template reads; `given` are additional variables that it may
    /// use.
    ///
    /// # Errors
    ///
    /// [`TemplateError::UnknownVariable`].
    pub fn columns(
        &self,
        table: &Schema,
        given: &[&str],
    ) -> Result<BTreeSet<String>, TemplateError> {
        let column = |name: &str| table.field_with_name(name).ok();
        let unknown = |name: &str, variable: String| {
            let names = || table.fields().iter().map(|field| field.name().as_str());
            let available: Vec<String> = names().map(|name| format!("`{name}`")).collect();
            TemplateError::UnknownVariable {
                key: self.key,
                variable,
                available: available.join(", "),
                suggestion: closest(name, names().chain(given.iter().copied()))
                    .map_or_else(String::new, |found| {
                        format!("; did you mean `{}`?", written(found))
                    }),
            }
        };
        let mut columns = BTreeSet::new();
        let mut is_row_read = false;
        for name in &self.names.read {
            let is_set = self.names.set.contains(name);
            match column(name) {
                // Most likely a loop over media, which cannot be printed.
                Some(field) if is_set && holds_bytes(field.data_type()) => {}
                Some(_) => {
                    columns.insert(name.clone());
                }
                None if name == ROW => is_row_read = true,
                None if is_set
                    || given.contains(&name.as_str())
                    || LOCALS.contains(&name.as_str())
                    || Kind::Function.exists(name, self.template.environment()) => {}
                None => return Err(unknown(name, name.clone())),
            }
        }
        if !is_row_read {
            return Ok(columns);
        }
        // A `row` set by the template may have members of any name.
        let is_set = self.names.set.contains(ROW);
        for name in &self.names.row_columns.named {
            if column(name).is_some() {
                columns.insert(name.clone());
            } else if !is_set && !given.contains(&name.as_str()) {
                return Err(unknown(name, format!("{ROW}[{name:?}]")));
            }
        }
        if self.names.row_columns.may_be_any {
            let cheap = table.fields().iter().filter(|field| !holds_bytes(field.data_type()));
            columns.extend(cheap.map(|field| field.name().clone()));
        }
        Ok(columns)
    }

    /// Renders the template for a row.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Render`].
    pub fn render(&self, row: &Map<String, Value>) -> Result<String, TemplateError> {
        let read = self.names.read.iter().filter_map(|name| Some((name, row.get(name)?)));
        let mut variables: BTreeMap<&str, Shown> =
            read.map(|(name, value)| (name.as_str(), Shown::from(Serde(value)))).collect();
        if self.names.read.contains(ROW) {
            variables.entry(ROW).or_insert_with(|| Shown::from(Serde(row)));
        }
        self.template.render(Shown::from(Serde(variables))).map_err(|error| TemplateError::Render {
            problem: excerpt(&error.to_string()).into_owned(),
        })
    }
}

/// Returns the template syntax for a column.
fn written(column: &str) -> String {
    let is_identifier = column.chars().all(|c| c == '_' || c.is_alphanumeric())
        && !column.starts_with(|c: char| c.is_numeric());
    if is_identifier { column.to_owned() } else { format!("{ROW}[{column:?}]") }
}

#[cfg(test)]
mod tests;
