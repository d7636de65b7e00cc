//! The name of a model on the Hub.

use std::{fmt, str::FromStr};

use super::HubError;

/// A model on the Hub at a branch, tag or commit, optionally in a folder of the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubRepo {
    name: String,
    folder: Option<String>,
    revision: Option<String>,
}

impl HubRepo {
    /// The prefix of a Hub model in `model.bundle`.
    pub const SCHEME: &'static str = "hf://";

    /// The default branch.
    pub(super) const MAIN: &'static str = "main";

    /// Returns `owner/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder of the repository that holds the model, if it is not the root.
    #[must_use]
    pub fn folder(&self) -> Option<&str> {
        self.folder.as_deref()
    }

    /// Returns `owner/name`, followed by the folder if there is one.
    pub(crate) fn name_and_folder(&self) -> String {
        let folder = self.folder.iter().flat_map(|folder| ["/", folder.as_str()]);
        std::iter::once(self.name.as_str()).chain(folder).collect()
    }

    /// Returns the path within the repository of a file of the model.
    pub(super) fn path_in_repo(&self, file: &str) -> String {
        self.folder.as_ref().map_or_else(|| file.to_owned(), |folder| format!("{folder}/{file}"))
    }

    /// Returns the branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(Self::MAIN)
    }

    /// Returns the same model at another branch, tag or commit.
    pub(super) fn with_revision(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::SCHEME, self.name_and_folder())?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HubRepo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = |problem| HubError::Name { text: text.to_owned(), problem };
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| invalid("it does not start with `hf://`"))?;
        let (place, revision) = match rest.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (rest, None),
        };
        // Names and revisions are used in URLs and paths.
        let plain = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.bytes().all(allowed) && !part.contains("..") && part != "."
        };
        // Early Hub models have no owner.
        if !place.split('/').all(plain) {
            return Err(invalid("names may only contain letters, digits, `-`, `_` and `.`"));
        }
        let slash = place.match_indices('/').nth(1).map(|(at, _)| at);
        let (name, folder) = match slash {
            Some(at) => (&place[..at], Some(place[at + 1..].to_owned())),
            None => (place, None),
        };
        if revision.is_some_and(|revision| !revision.split('/').all(plain)) {
            return Err(invalid("invalid revision"));
        }
        Ok(Self { name: name.to_owned(), folder, revision: revision.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_round_trip() {
        for text in [
            "hf://gpt2",
            "hf://o-1/n_2.x",
            "hf://o/n@v1.0",
            "hf://o/n@refs/pr/3",
            "hf://o/n/cpu/int4@v1",
        ] {
            assert_eq!(text.parse::<HubRepo>().unwrap().to_string(), text);
        }
        let deep: HubRepo = "hf://o/n/cpu/int4@v1".parse().unwrap();
        assert_eq!((deep.name(), deep.folder(), deep.revision()), ("o/n", Some("cpu/int4"), "v1"));
        assert_eq!("hf://o/n".parse::<HubRepo>().unwrap().revision(), "main");
    }

    #[test]
    fn unsafe_names_are_rejected() {
        for text in [
            "hf://",
            "hf://o/",
            "hf://o/n/",
            "hf://o/n/../x",
            "hf://../n",
            "hf://o/..",
            "hf://o/n@",
            "hf://o/n@../x",
            "hf://o/n@a//b",
            "hf://o/n?x",
            "hf://o/n x",
            "o/n",
        ] {
            let error = text.parse::<HubRepo>().unwrap_err();
            assert!(error.to_string().contains("expected `hf://owner/name`"), "{error}");
        }
    }
}
