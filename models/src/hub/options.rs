//! Hub endpoint, token and cache folder, from the same environment variables as `huggingface_hub`.

use std::{ffi::OsString, fmt, path::PathBuf};

/// The default endpoint, overridden by `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";

/// Options for access to the Hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// The URL of the Hub.
    pub endpoint: String,
    /// The access token.
    pub token: Option<Token>,
    /// The cache folder, shared with `huggingface_hub`.
    pub cache_dir: Option<PathBuf>,
    /// The reason why downloads are disabled, if they are.
    pub offline: Option<String>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { endpoint: ENDPOINT.to_owned(), token: None, cache_dir: None, offline: None }
    }
}

/// A secret that is only sent to the Hub and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns the secret, for a request to the Hub.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubOptions {
    /// Reads the environment like `huggingface_hub` 0.36. The endpoint is `HF_ENDPOINT`. The cache
    /// is `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, which defaults to
    /// `huggingface` in the user's cache folder. The token is `HF_TOKEN`, else the content of the
    /// file `HF_TOKEN_PATH`, else of `token` in `HF_HOME`. `HF_HUB_OFFLINE` and `LEGENDA_OFFLINE`
    /// disable downloads.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var_os(name), dirs::home_dir())
    }

    fn from_variables(
        variable: &dyn Fn(&str) -> Option<OsString>,
        home_dir: Option<PathBuf>,
    ) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(home_dir?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            std::fs::read_to_string(file).ok()
        };
        let token = text("HF_TOKEN").or_else(token_file);
        // The values that `huggingface_hub` accepts as true.
        let is_set = |name: &str| {
            let value = text(name)?.to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str()).then(|| format!("`{name}` is set"))
        };
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty())
                .map(Token),
            cache_dir,
            offline: is_set("HF_HUB_OFFLINE").or_else(|| is_set("LEGENDA_OFFLINE")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        let variable = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        };
        HubOptions::from_variables(&variable, Some(PathBuf::from("/home/u")))
    }

    #[test]
    fn the_most_specific_variable_sets_the_cache_folder() {
        let dir = |variables: &[(&str, &str)]| options(variables).cache_dir.unwrap();
        assert_eq!(dir(&[]), PathBuf::from("/home/u/.cache/huggingface/hub"));
        assert_eq!(dir(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        let home = ("HF_HOME", "/h");
        assert_eq!(dir(&[home]), PathBuf::from("/h/hub"));
        let older = ("HUGGINGFACE_HUB_CACHE", "/old");
        assert_eq!(dir(&[home, older]), PathBuf::from("/old"));
        assert_eq!(dir(&[home, older, ("HF_HUB_CACHE", "/new")]), PathBuf::from("/new"));
    }

    #[test]
    fn the_token_is_read_from_the_variable_or_its_file_and_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), b"from-file\n")
            .unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        assert_eq!(options(&[home]).token.unwrap().secret(), "from-file");
        let both = options(&[home, ("HF_TOKEN", "hf_secret")]);
        assert_eq!(both.token.as_ref().unwrap().secret(), "hf_secret");
        assert!(!format!("{both:?}").contains("hf_secret"));
        assert_eq!(options(&[]).token, None);
    }

    #[test]
    fn offline_mode_has_a_reason() {
        assert_eq!(options(&[("HF_HUB_OFFLINE", "0")]).offline, None);
        let why = options(&[("HF_HUB_OFFLINE", "1")]).offline.unwrap();
        assert_eq!(why, "`HF_HUB_OFFLINE` is set");
    }
}
