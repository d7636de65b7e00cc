//! The web page, for a person, and what a monitor reads. It shows what the board and the history say,
//! and asks the scheduler's loop for what somebody wants.
//!
//! Whoever can reach the address may look; to start, stop or retry, and to see what is wrong with a job
//! file, takes the token, in a form field or as `Authorization: Bearer`, and nothing that a browser sends by
//! itself, so no other site can do it.

mod host;
mod metrics;
mod server;
mod views;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use axum::{
    Extension, Form, Router,
    extract::{DefaultBodyLimit, Path, Request, State, rejection::FormRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use legenda_schemas::sha256_hex;
use serde::Deserialize;
use tokio::sync::oneshot;

use self::{
    host::Arrival,
    views::{Viewer, Views},
};
pub(crate) use self::{host::PageHost, server::serve};
use super::{
    board::Board,
    history::{History, HistoryError},
    record::RunId,
    reports::Reports,
    scheduler::ActionError,
    service::{Action, Event},
};

/// The service is taken for dead when it has not looked at the time for so long.
const TICK_MAX: Duration = Duration::from_secs(30);

/// The most bytes of a form.
const FORM_BYTES_MAX: usize = 4096;

/// What the pages of this program may do: show what comes from here, and run its one script.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What the report of a run may do: it is made of the rows of a table, so it is given no script, no
/// network, and an origin of its own.
const REPORT_POLICY: &str = "sandbox; default-src 'none'; img-src data:; media-src data:; \
    style-src 'unsafe-inline'; frame-ancestors 'none'";

/// What the page works with.
pub(crate) struct Page {
    views: Views,
    history: Mutex<History>,
    reports: Reports,
    board: Arc<Board>,
    events: Mutex<mpsc::Sender<Event>>,
    /// The digest of the token: texts of equal length are compared in a time that tells nothing.
    token: String,
    /// Names that the page is served by, apart from those of this machine.
    names: Vec<PageHost>,
}

/// Why a page cannot be shown, or something not done.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("there is no such page")]
    NotFound,
    #[error(
        "the token is missing or wrong: it was printed when the service began, or is in the environment variable that `--token-env` names"
    )]
    Token,
    #[error(
        "invalid `Host`: this page is served as localhost, by the address that it listens at, and by the names of `--page-host`"
    )]
    Host,
    #[error("a form of another site is not accepted")]
    CrossSite,
    #[error("the service is ending")]
    Ending,
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("the page cannot be made: {0}")]
    Template(#[from] minijinja::Error),
    #[error("the report cannot be read: {0}")]
    Report(String),
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound | Self::Action(ActionError::NoJob(_) | ActionError::NoRun(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::Action(ActionError::State { .. } | ActionError::Broken { .. }) => {
                StatusCode::CONFLICT
            }
            Self::Ending | Self::Action(ActionError::Ending) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Report(_) => StatusCode::BAD_GATEWAY,
            Self::History(_) | Self::Template(_) | Self::Action(ActionError::History(_)) => {
                tracing::error!(error = %self, "page failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl Page {
    /// Returns the page of a service, which is asked for by `names` too.
    pub(crate) fn new(
        (history, reports): (History, Reports),
        board: Arc<Board>,
        events: mpsc::Sender<Event>,
        token: &str,
        names: Vec<PageHost>,
    ) -> Self {
        Self {
            views: Views::new(),
            history: Mutex::new(history),
            reports,
            board,
            events: Mutex::new(events),
            token: sha256_hex([token.as_bytes()]),
            names,
        }
    }

    /// Returns what answers requests.
    pub(crate) fn router(self) -> Router {
        let page = Arc::new(self);
        Router::new()
            .route("/", get(overview))
            .route("/jobs/{job}", get(job))
            .route("/jobs/{job}/problem", post(problem))
            .route("/jobs/{job}/start", post(start))
            .route("/runs/{run}", get(run))
            .route("/runs/{run}/report", get(report))
            .route("/runs/{run}/stop", post(stop))
            .route("/runs/{run}/retry", post(retry))
            .route("/healthz", get(health))
            .route("/metrics", get(metrics))
            .route("/style.css", get(|| async { asset("text/css", include_str!("style.css")) }))
            .route("/live.js", get(|| async { asset("text/javascript", include_str!("live.js")) }))
            .fallback(|| async { PageError::NotFound })
            .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
            .layer(middleware::from_fn_with_state(Arc::clone(&page), guard))
            .with_state(page)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // It only reads, so whoever panicked left nothing half done.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_allowed(&self, given: &str) -> bool {
        sha256_hex([given.trim().as_bytes()]) == self.token
    }

    fn viewer(&self, headers: &HeaderMap) -> Viewer {
        match bearer(headers) {
            Some(token) if self.is_allowed(token) => Viewer::TokenHolder,
            _ => Viewer::Anyone,
        }
    }

    /// Shows a job and its last runs.
    fn job(&self, job: &str, viewer: Viewer) -> Result<Html<String>, PageError> {
        let runs = self.history().newest(Some(job), views::RUNS_SHOWN)?;
        let shown = self.views.job(&self.board, job, &runs, viewer)?;
        shown.map(Html).ok_or(PageError::NotFound)
    }

    /// Asks the scheduler's loop, and waits for its answer.
    async fn ask(&self, action: Action) -> Result<RunId, PageError> {
        let (answer, answered) = oneshot::channel();
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        events.send(Event::Asked(action, answer)).map_err(|_| PageError::Ending)?;
        Ok(answered.await.map_err(|_| PageError::Ending)??)
    }
}

/// Refuses what no page of this service asks for, and says what its pages may do.
async fn guard(
    State(page): State<Arc<Page>>,
    Extension(arrival): Extension<Arrival>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match host::is_served(request.headers(), request.uri(), arrival, &page.names)
    {
        true => next.run(request).await,
        false => PageError::Host.into_response(),
    };
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind)], text)
}

async fn overview(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
) -> Result<Html<String>, PageError> {
    let runs = page.history().newest(None, views::RUNS_SHOWN)?;
    Ok(Html(page.views.overview(&page.board, &runs, page.viewer(&headers))?))
}

async fn job(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Html<String>, PageError> {
    page.job(&job, page.viewer(&headers))
}

/// Shows a job with what is wrong with its file.
async fn problem(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    form: Given,
) -> Result<Html<String>, PageError> {
    check(&page, &headers, form)?;
    page.job(&job, Viewer::TokenHolder)
}

async fn run(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
) -> Result<Html<String>, PageError> {
    let (run, tries) = {
        let history = page.history();
        (history.run(run)?.ok_or(PageError::NotFound)?, history.tries(run)?)
    };
    let has_report = page.reports.path(run.id).is_file();
    Ok(Html(page.views.run(&page.board, &run, &tries, has_report)?))
}

/// Shows the page about a run, as it was when the run ended.
async fn report(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
) -> Result<Response, PageError> {
    let reports = page.reports.clone();
    let read = tokio::task::spawn_blocking(move || reports.read(run)).await;
    let read = read.map_err(|error| PageError::Report(error.to_string()))?;
    let read = read.map_err(|error| PageError::Report(error.to_string()))?;
    let bytes = read.ok_or(PageError::NotFound)?;
    let policy = HeaderValue::from_static(REPORT_POLICY);
    Ok(([(CONTENT_SECURITY_POLICY, policy)], Html(bytes)).into_response())
}

/// The form of every button.
#[derive(Debug, Deserialize)]
struct TokenForm {
    token: String,
}

type Given = Result<Form<TokenForm>, FormRejection>;

/// Returns the token of the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Refuses whoever does not know the token.
fn check(page: &Page, headers: &HeaderMap, form: Given) -> Result<(), PageError> {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if matches!(site, Some("cross-site" | "same-site")) {
        return Err(PageError::CrossSite);
    }
    let given = match (bearer(headers), &form) {
        (Some(token), _) => token,
        (None, Ok(Form(TokenForm { token }))) => token,
        (None, Err(_)) => return Err(PageError::Token),
    };
    if page.is_allowed(given) { Ok(()) } else { Err(PageError::Token) }
}

async fn start(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    form: Given,
) -> Result<Redirect, PageError> {
    check(&page, &headers, form)?;
    let run = page.ask(Action::Start(job)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn stop(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
    headers: HeaderMap,
    form: Given,
) -> Result<Redirect, PageError> {
    check(&page, &headers, form)?;
    page.ask(Action::Stop(run)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn retry(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
    headers: HeaderMap,
    form: Given,
) -> Result<Redirect, PageError> {
    check(&page, &headers, form)?;
    page.ask(Action::Retry(run)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn health(State(page): State<Arc<Page>>) -> Response {
    match page.board.since_tick() {
        Some(since) if since < TICK_MAX => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the scheduler stands still\n").into_response(),
    }
}

async fn metrics(State(page): State<Arc<Page>>) -> Result<impl IntoResponse, PageError> {
    let text = metrics::text(&page.board, &page.history())?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
