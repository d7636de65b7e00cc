//! The schedule and hooks of a job, used only by `legenda schedule`. They do not affect answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JobError;
use crate::{
    cron::{CronPattern, TimeZone},
    units::Period,
};

/// The schedule of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The cron pattern: minute, hour, day of month, month, day of week, such as `0 3 * * *`; optionally
    /// preceded by seconds; or `@hourly`, `@daily`, `@weekly`, `@monthly`.
    pub cron: CronPattern,
    /// The time zone of `cron`: an IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub time_zone: TimeZone,
    /// The handling of slots that were due while the service was down or the previous run was unfinished.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// The number of runs that may overlap an unfinished run. It must be 0, because an output has one
    /// writer.
    #[serde(default)]
    pub max_overlap: u32,
    /// The maximum delay of a run after its slot, so that jobs with the same schedule do not start together.
    /// The delay of a slot is deterministic.
    #[serde(default)]
    pub jitter: Period,
    /// The timeout of an attempt; after it, the attempt is stopped and counts as failed. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// The maximum number of retries of a run that failed with a retryable error.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The delay before the first retry; it doubles with each retry.
    #[serde(default = "default_backoff")]
    pub backoff: Period,
    /// The maximum delay before a retry.
    #[serde(default = "default_backoff_max")]
    pub backoff_max: Period,
}

fn default_retries() -> u32 {
    3
}

fn default_backoff() -> Period {
    Period::seconds(60)
}

fn default_backoff_max() -> Period {
    Period::seconds(3600)
}

/// The handling of slots that were due while the service was down or the previous run was unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Skip them.
    None,
    /// Run the last one and skip the others; enough for a job that reads new files.
    #[default]
    Last,
    /// Run all of them, one after another.
    All,
}

impl CatchUp {
    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

impl Schedule {
    /// Returns the delay before the retry after the `n`-th failure, counted from 1.
    #[must_use]
    pub fn backoff_after(&self, n: u32) -> Period {
        let factor = 2_u64.saturating_pow(n.saturating_sub(1));
        Period(self.backoff.0.saturating_mul(factor).min(self.backoff_max.0))
    }

    /// Validates the options.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let invalid =
            |key, problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
        if self.max_overlap > 0 {
            return invalid(
                "schedule.max_overlap",
                "must be 0, because an output has one writer: for parallel runs, use a second job \
                 file with another `output.path`",
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.0 == 0) {
            return invalid("schedule.timeout", "must be above 0: omit it for no timeout");
        }
        Ok(())
    }
}

/// The hooks of a scheduled run, run once it reaches a final state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Run when every row is answered or rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_success: Vec<Hook>,
    /// Run when the run failed and no retries are left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_failure: Vec<Hook>,
}

/// A hook: a command or a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// A program and its arguments, started without a shell in the folder of the job file. It receives the
    /// message, a JSON object, on standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// An `http://` or `https://` URL that receives the message as a POST request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable with the signing secret. The header `Legenda-Signature` is then `sha256=`
    /// followed by the HMAC-SHA256 of the body in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// The timeout. Default: 30 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

/// The kinds of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind<'a> {
    /// A command: a program and its arguments.
    Command(&'a [String]),
    /// A webhook: its URL.
    Webhook(&'a str),
}

impl Hook {
    /// Returns the kind of hook; `None` if both or neither of `command` and `url` are set.
    #[must_use]
    pub fn kind(&self) -> Option<HookKind<'_>> {
        match (&self.command, &self.url) {
            (Some(command), None) => Some(HookKind::Command(command)),
            (None, Some(url)) => Some(HookKind::Webhook(url)),
            _ => None,
        }
    }
}

impl Hooks {
    /// Returns whether there are no hooks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.on_success.is_empty() && self.on_failure.is_empty()
    }

    /// Validates the options.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        for (key, hooks) in
            [("hooks.on_success", &self.on_success), ("hooks.on_failure", &self.on_failure)]
        {
            let invalid = |problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
            for hook in hooks {
                match hook.kind() {
                    None => return invalid("must set exactly one of `command` and `url`"),
                    Some(HookKind::Command(words)) => {
                        if words.first().is_none_or(String::is_empty) {
                            return invalid("must not have an empty `command`");
                        }
                        if hook.secret_env.is_some() {
                            return invalid("supports `secret_env` only with `url`");
                        }
                    }
                    Some(HookKind::Webhook(url)) => {
                        if !(url.starts_with("https://") || url.starts_with("http://")) {
                            return invalid("must have an http:// or https:// `url`");
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
