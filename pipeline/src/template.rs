//! Prompt templates: Jinja syntax over the columns of a row, without access to anything else.

use std::{collections::BTreeSet, io};

use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};

/// Instructions a template may take for one row, so that a loop over a huge range ends; a plain
/// template takes a few dozen.
const FUEL: u64 = 200_000;
const NAME: &str = "prompt";
/// The longest prompt that is rendered, in bytes: fuel bounds instructions, and one of them may write a
/// text of any length again. Far above `limits.text_bytes` of any job that a model could answer.
const PROMPT_BYTES_MAX: usize = 64 << 20;

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    variables: BTreeSet<String>,
}

/// Why a template cannot be used, or not for a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// It is no template.
    #[error("`{key}` is no valid template: {problem}")]
    Syntax {
        /// The key of the job file.
        key: &'static str,
        /// What is wrong, and in which line.
        problem: String,
    },
    /// It names what no column is called.
    #[error("`{key}` uses `{variable}`, which is no column of the table; it has {available}")]
    UnknownVariable {
        /// The key of the job file.
        key: &'static str,
        /// The name.
        variable: String,
        /// The names there are.
        available: String,
    },
    /// It fails for a row.
    #[error("the prompt template fails on this row: {problem}")]
    Render {
        /// What is wrong.
        problem: String,
    },
}

impl Template {
    /// Compiles the template `source` that stands at `key` of the job file.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Syntax`].
    pub fn compile(key: &'static str, source: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TemplateError::Syntax { key, problem: error.to_string() })?;
        let variables = environment
            .get_template(NAME)
            .map(|template| template.undeclared_variables(false))
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !environment.globals().any(|(global, _)| global == name))
            .collect();
        Ok(Self { environment, variables })
    }

    /// Returns the names the template takes from a row.
    #[must_use]
    pub fn variables(&self) -> &BTreeSet<String> {
        &self.variables
    }

    /// Renders the template for a row.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Render`].
    pub fn render(&self, row: &Map<String, Value>) -> Result<String, TemplateError> {
        let mut prompt = Bounded { bytes: Vec::new() };
        let failed = |problem: String| TemplateError::Render { problem };
        let template =
            self.environment.get_template(NAME).map_err(|error| failed(error.to_string()))?;
        let rendered = template.render_captured_to(minijinja::value::Serde(row), &mut prompt);
        rendered.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            failed(cause.unwrap_or_else(|| error.to_string()))
        })?;
        String::from_utf8(prompt.bytes).map_err(|error| failed(error.to_string()))
    }
}

/// Takes what a template writes, up to a bound.
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > PROMPT_BYTES_MAX {
            let problem = format!("it writes more than {PROMPT_BYTES_MAX} bytes");
            return Err(io::Error::other(problem));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Template, TemplateError};

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn columns_fill_the_template() {
        let template = Template::compile("task.prompt", "{{ a }} and {{ b | upper }}").unwrap();
        assert_eq!(template.variables().iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(template.render(&row(json!({"a": 1, "b": "x"}))).unwrap(), "1 and X");
    }

    #[test]
    fn bad_templates_and_rows_are_errors() {
        let syntax = Template::compile("task.prompt", "{{ a").unwrap_err();
        assert!(matches!(syntax, TemplateError::Syntax { key: "task.prompt", .. }), "{syntax}");
        let endless =
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}";
        let template = Template::compile("task.prompt", endless).unwrap();
        assert!(matches!(template.render(&Map::new()), Err(TemplateError::Render { .. })));
        let long = "{% for i in range(9999) %}{{ text }}{% endfor %}";
        let template = Template::compile("task.prompt", long).unwrap();
        let refused = template.render(&row(json!({"text": "x".repeat(100_000)}))).unwrap_err();
        // Whichever bound is met first.
        let told = refused.to_string();
        assert!(told.contains("writes more than") || told.contains("out of fuel"), "{told}");
    }
}
