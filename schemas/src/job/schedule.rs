//! When a job runs by itself, and who is told how it went: for `legenda schedule` alone. Neither
//! changes an answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JobError;
use crate::{
    cron::{CronPattern, TimeZone},
    units::Period,
};

/// When a job runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// When it is due: minute, hour, day of the month, month, day of the week, such as `0 3 * * *`;
    /// six fields begin with seconds; `@hourly`, `@daily`, `@weekly`, `@monthly`.
    pub cron: CronPattern,
    /// The time zone of `cron`, by its IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    pub time_zone: TimeZone,
    /// What becomes of times that came while the service was down or the job still ran.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// How many runs of the job may go on beside one that is not over. An output has one writer, so
    /// this is 0.
    #[serde(default)]
    pub max_overlap: u32,
    /// A run begins up to this much later than it is due, so that jobs of the same time do not begin
    /// together; the delay of a time is always the same.
    #[serde(default)]
    pub jitter: Period,
    /// A try that goes on for longer is stopped, and counts as failed; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// How often a run that failed is tried again, where trying again can help.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The wait before the first of these tries; it doubles from each to the next.
    #[serde(default = "default_backoff")]
    pub backoff: Period,
    /// The longest of these waits.
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

/// What becomes of times that came while the service was down or the job still ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are skipped.
    None,
    /// The last of them runs, the others are skipped: enough for a job that reads what is new.
    #[default]
    Last,
    /// Each of them runs, one after another.
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
    /// Returns how long to wait after the `n`-th failure, from 1, before the next try.
    #[must_use]
    pub fn wait_after(&self, n: u32) -> Period {
        let doubled = 2_u64.saturating_pow(n.saturating_sub(1));
        Period(self.backoff.0.saturating_mul(doubled).min(self.backoff_max.0))
    }

    /// Refuses what cannot be meant.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let refuse = |key, problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
        if self.max_overlap > 0 {
            return refuse(
                "schedule.max_overlap",
                "is above 0, but an output has one writer at a time: write 0, or a second job file \
                 with an `output.path` of its own",
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.0 == 0) {
            return refuse("schedule.timeout", "is 0: write a time above 0, or leave it out");
        }
        Ok(())
    }
}

/// Who is told how a scheduled run went, once it is over and no try is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// When every row is accounted for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_success: Vec<Hook>,
    /// When the run failed for good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_failure: Vec<Hook>,
}

/// One way to tell: a command or a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// A program and its arguments, started in the folder of the job file without a shell; it is given
    /// the message, a JSON object, on its standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// An `http://` or `https://` address that the message is posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable with the secret that the message is signed with: the header
    /// `Legenda-Signature` is `sha256=` and the HMAC-SHA256 of the body, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// How long it may take; default: 30 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

/// How a hook tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind<'a> {
    /// By a command: a program and its arguments.
    Command(&'a [String]),
    /// By a webhook: its address.
    Webhook(&'a str),
}

impl Hook {
    /// Returns how the hook tells; none of one that says both, or neither.
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
    /// Returns whether nobody is told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.on_success.is_empty() && self.on_failure.is_empty()
    }

    /// Refuses what cannot be meant.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        for (key, hooks) in
            [("hooks.on_success", &self.on_success), ("hooks.on_failure", &self.on_failure)]
        {
            let refuse = |problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
            for hook in hooks {
                match hook.kind() {
                    None => return refuse("needs `command` or `url`, and not both"),
                    Some(HookKind::Command(words)) => {
                        if words.first().is_none_or(String::is_empty) {
                            return refuse("has an empty `command`: name a program");
                        }
                        if hook.secret_env.is_some() {
                            return refuse("has `secret_env`, which is for `url`: remove it");
                        }
                    }
                    Some(HookKind::Webhook(url)) => {
                        if !(url.starts_with("https://") || url.starts_with("http://")) {
                            return refuse("has a `url` that is no http:// or https:// address");
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
