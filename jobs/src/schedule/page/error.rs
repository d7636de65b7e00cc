//! The errors of requests: plain text for programs, a page with a way back for browsers.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use legenda_schemas::cause::{Cause, chain};

use crate::schedule::{history::HistoryError, scheduler::ActionError};

/// An error of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("page not found")]
    NotFound,
    #[error("this address only accepts the button of a page")]
    Method,
    #[error(
        "token is missing or wrong: use the token that the service printed at startup, or the value of the `--token-env` variable"
    )]
    Token,
    #[error(
        "invalid `Host`: expected localhost, the listen address, or a name given by `--page-host`"
    )]
    Host,
    #[error("cross-site requests are not accepted")]
    CrossSite,
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("failed to render the page")]
    Template(#[from] minijinja::Error),
    #[error("failed to read the report")]
    Report(#[source] Cause),
}

/// The text of an error, attached to its response so that it can become a page.
#[derive(Clone, Debug)]
pub(super) struct ErrorText {
    pub(super) text: String,
    /// Whether the token was missing or wrong.
    pub(super) is_refused: bool,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound | Self::Action(ActionError::NoJob(_) | ActionError::NoRun(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::Action(ActionError::State { .. } | ActionError::InvalidJob { .. }) => {
                StatusCode::CONFLICT
            }
            Self::ShuttingDown | Self::Action(ActionError::ShuttingDown) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Report(_) => StatusCode::BAD_GATEWAY,
            Self::History(_) | Self::Template(_) | Self::Action(ActionError::History(_)) => {
                tracing::error!(error = chain(&self), "failed to serve a request");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        // The causes of internal errors are in the log only.
        let text = match status {
            StatusCode::INTERNAL_SERVER_ERROR => self.to_string(),
            _ => chain(&self),
        };
        let mut response = (status, format!("{text}\n")).into_response();
        // Another site gets nothing to render.
        if !matches!(self, Self::Host) {
            let is_refused = matches!(self, Self::Token);
            response.extensions_mut().insert(ErrorText { text, is_refused });
        }
        response
    }
}
