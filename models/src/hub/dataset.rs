//! Datasets on the Hub. Their files are listed here and read remotely, not downloaded.

use std::str::FromStr;

use super::{
    HubError, HubOptions, HubRepo,
    client::{ATTEMPTS_MAX, Client},
};

/// A dataset on the Hub at a branch, tag or commit, with a path or pattern inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDataset {
    repo: HubRepo,
    /// A file, a folder or a pattern; empty for the whole dataset.
    inside: String,
}

impl HubDataset {
    /// The prefix of a Hub dataset in `source.paths`.
    pub const SCHEME: &'static str = "hf://datasets/";

    /// The short name and the branch of the Hub's automatic Parquet conversion.
    const PARQUET: (&'static str, &'static str) = ("~parquet", "refs/convert/parquet");

    /// Returns the path, folder or pattern within the dataset; empty for the whole dataset.
    #[must_use]
    pub fn inside(&self) -> &str {
        &self.inside
    }

    /// Lists all files of the dataset on the Hub, as pairs of name and URL.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the Hub refuses access or is unreachable, or if `options` disable downloads.
    pub fn files(&self, options: &HubOptions) -> Result<Vec<(String, String)>, HubError> {
        if let Some(why) = &options.offline {
            let dataset = format!("{}{}", Self::SCHEME, self.repo.name());
            return Err(HubError::DatasetOffline { dataset, problem: why.clone() });
        }
        let client = Client::new(options)?;
        let listing = client.dataset_listing(&self.repo, ATTEMPTS_MAX)?;
        let url_of = |name: &str| client.dataset_url(&self.repo, name).to_string();
        Ok(listing.files.into_keys().map(|name| (name.clone(), url_of(&name))).collect())
    }
}

impl FromStr for HubDataset {
    type Err = HubError;

    /// Parses `hf://datasets/owner/name[@revision][/path]`, the syntax of `huggingface_hub`. A
    /// slash in a revision is written as `%2F`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = |problem| HubError::DatasetName { text: text.to_owned(), problem };
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| invalid("it does not start with `hf://datasets/`"))?;
        let mut parts = rest.splitn(3, '/');
        let (owner, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let inside = parts.next().unwrap_or_default().trim_end_matches('/');
        let (short, long) = Self::PARQUET;
        let name = match name.split_once('@') {
            Some((name, revision)) if revision == short => format!("{name}@{long}"),
            Some((name, revision)) => format!("{name}@{}", revision.replace("%2F", "/")),
            None => name.to_owned(),
        };
        let repo: Result<HubRepo, _> = format!("{}{owner}/{name}", HubRepo::SCHEME).parse();
        let repo = repo.map_err(|_| invalid("invalid owner, name or revision"))?;
        if inside.split('/').any(|part| part == "..") {
            return Err(invalid("the path leaves the dataset"));
        }
        Ok(Self { repo, inside: inside.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::HubDataset;

    #[test]
    fn dataset_names_follow_the_syntax_of_the_hub() {
        for (text, name, revision, inside) in [
            ("hf://datasets/o/n", "o/n", "main", ""),
            ("hf://datasets/o/n/", "o/n", "main", ""),
            ("hf://datasets/o/n@v1/data/*.parquet", "o/n", "v1", "data/*.parquet"),
            ("hf://datasets/o/n@~parquet", "o/n", "refs/convert/parquet", ""),
            ("hf://datasets/o/n@refs%2Fpr%2F3/x", "o/n", "refs/pr/3", "x"),
        ] {
            let dataset: HubDataset = text.parse().unwrap();
            assert_eq!((dataset.repo.name(), dataset.repo.revision()), (name, revision), "{text}");
            assert_eq!(dataset.inside(), inside, "{text}");
        }
        for text in ["hf://datasets/o", "hf://datasets/../n", "hf://datasets/o/n/../x", "hf://o/n"]
        {
            let error = text.parse::<HubDataset>().unwrap_err();
            assert!(error.to_string().contains("expected `hf://datasets/owner/name`"), "{error}");
        }
    }
}
