//! The addresses of the page: what each request reads or does.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use axum::{
    Extension, Form, Router,
    extract::{DefaultBodyLimit, Path, Request, State, rejection::FormRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{
            ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use legenda_pipeline::report::PALETTE;
use legenda_schemas::sha256_hex;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{
    error::{ErrorText, PageError},
    host::{self, LocalAddress, PageHost},
    lines::JobResults,
    metrics,
    views::{self, ErrorView, Viewer, Views},
};
use crate::schedule::{
    board::Board,
    history::{History, HistoryError},
    record::RunId,
    reports::Reports,
    service::{Action, Event},
};

/// The health check fails if the last scheduler tick is older than this.
const TICK_AGE_MAX: Duration = Duration::from_secs(30);

/// The maximum size of a form.
const FORM_BYTES_MAX: usize = 4096;

/// The content security policy of the pages: only resources from here, including the one script.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The content security policy of a report. It contains rows of a table, so it gets no scripts, no
/// network, and an opaque origin.
const REPORT_POLICY: &str = "sandbox; default-src 'none'; img-src data:; media-src data:; \
    style-src 'unsafe-inline'; frame-ancestors 'none'";

/// The style of the pages, in the colours of the reports.
static STYLE: LazyLock<String> =
    LazyLock::new(|| format!("{PALETTE}{}", include_str!("style.css")));

/// The state of the page.
pub(crate) struct Page {
    views: Views,
    history: Mutex<History>,
    reports: Reports,
    board: Arc<Board>,
    events: Mutex<mpsc::Sender<Event>>,
    /// The digest of the token; comparing digests leaks no timing information about the token.
    token: String,
    /// The allowed host names besides those of this machine.
    names: Vec<PageHost>,
}

impl Page {
    /// Creates the page; `names` are additional allowed host names.
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

    /// Returns the router.
    pub(crate) fn router(self) -> Router {
        let page = Arc::new(self);
        Router::new()
            .route("/", get(overview))
            .route("/jobs/{job}", get(job))
            .route("/token", post(token))
            .route("/jobs/{job}/problem", post(problem))
            .route("/jobs/{job}/start", post(start))
            .route("/runs/{run}", get(run))
            .route("/runs/{run}/report", get(report))
            .route("/runs/{run}/stop", post(stop))
            .route("/runs/{run}/retry", post(retry))
            .route("/healthz", get(health))
            .route("/metrics", get(metrics))
            .route("/style.css", get(|| async { asset("text/css", STYLE.as_str()) }))
            .route("/live.js", get(|| async { asset("text/javascript", include_str!("live.js")) }))
            .fallback(|| async { PageError::NotFound })
            .method_not_allowed_fallback(|| async { PageError::Method })
            .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
            .layer(middleware::from_fn_with_state(Arc::clone(&page), guard))
            .with_state(page)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // The history is only read here, so a panic cannot leave it inconsistent.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_token(&self, text: &str) -> bool {
        sha256_hex([text.trim().as_bytes()]) == self.token
    }

    fn viewer(&self, headers: &HeaderMap) -> Viewer {
        match bearer(headers) {
            Some(token) if self.is_token(token) => Viewer::TokenHolder,
            _ => Viewer::Anyone,
        }
    }

    /// Renders a job and its latest runs; `source` is the path of its page.
    fn job(&self, job: &str, source: &str, viewer: Viewer) -> Result<Html<String>, PageError> {
        let (results, runs) = {
            let history = self.history();
            (results(&history, job)?, history.latest_runs(Some(job), views::RUNS_SHOWN)?)
        };
        let html = self.views.job(&self.board, (job, source), &results, &runs, viewer)?;
        html.map(Html).ok_or(PageError::NotFound)
    }

    /// Returns a page about an error, for a browser.
    fn error_page(&self, path: &str, response: &Response) -> Option<Response> {
        let ErrorText { text, is_refused } = response.extensions().get()?;
        let error = ErrorView { text, path, is_refused: *is_refused };
        let html = self.views.error(&error).ok()?;
        Some((response.status(), Html(html)).into_response())
    }

    /// Sends an action to the scheduler loop and waits for the reply.
    async fn request(&self, action: Action) -> Result<RunId, PageError> {
        let (sender, reply) = oneshot::channel();
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        events.send(Event::Requested(action, sender)).map_err(|_| PageError::ShuttingDown)?;
        Ok(reply.await.map_err(|_| PageError::ShuttingDown)??)
    }
}

/// Returns the results of a job.
fn results(history: &History, job: &str) -> Result<JobResults, HistoryError> {
    Ok(JobResults {
        last_result: history.last_result(job)?,
        last_success: history.last_success(job)?,
        recent: history.latest_runs(Some(job), views::STRIP_RUNS)?,
    })
}

/// Rejects requests for other hosts, shows errors as pages to browsers, and sets the security headers.
async fn guard(
    State(page): State<Arc<Page>>,
    Extension(address): Extension<LocalAddress>,
    request: Request,
    next: Next,
) -> Response {
    let is_allowed = host::is_allowed(request.headers(), request.uri(), address, &page.names);
    let path = request.uri().path().to_owned();
    let accepted = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let is_browser = accepted.is_some_and(|accepted| accepted.contains("text/html"));
    let mut response = match is_allowed {
        true => next.run(request).await,
        false => PageError::Host.into_response(),
    };
    if is_browser && let Some(error) = page.error_page(&path, &response) {
        response = error;
    }
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
    let (all, runs) = {
        let history = page.history();
        let mut all = BTreeMap::new();
        for job in page.board.jobs() {
            let results = results(&history, &job.name)?;
            all.insert(job.name, results);
        }
        (all, history.latest_runs(None, views::RUNS_SHOWN)?)
    };
    Ok(Html(page.views.overview(&page.board, &all, &runs, page.viewer(&headers))?))
}

async fn job(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Html<String>, PageError> {
    page.job(&job, uri.path(), page.viewer(&headers))
}

/// Checks the token.
async fn token(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Redirect, PageError> {
    authorize(&page, &headers, form)?;
    Ok(Redirect::to("/"))
}

/// Shows a job with the error in its file.
async fn problem(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Html<String>, PageError> {
    authorize(&page, &headers, form)?;
    let source = uri.path().trim_end_matches("/problem");
    page.job(&job, source, Viewer::TokenHolder)
}

async fn run(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
) -> Result<Html<String>, PageError> {
    let (run, attempts) = {
        let history = page.history();
        (history.run(run)?.ok_or(PageError::NotFound)?, history.attempts(run)?)
    };
    let has_report = page.reports.path(run.id).is_file();
    Ok(Html(page.views.run(&page.board, &run, &attempts, has_report)?))
}

/// Shows the report of a run, as written when the run ended.
async fn report(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
) -> Result<Response, PageError> {
    let reports = page.reports.clone();
    let report = tokio::task::spawn_blocking(move || reports.read(run)).await;
    let report = report.map_err(|error| PageError::Report(error.into()))?;
    let report = report.map_err(|error| PageError::Report(error.into()))?;
    let bytes = report.ok_or(PageError::NotFound)?;
    let policy = HeaderValue::from_static(REPORT_POLICY);
    Ok(([(CONTENT_SECURITY_POLICY, policy)], Html(bytes)).into_response())
}

/// The form of every button.
#[derive(Debug, Deserialize)]
struct TokenForm {
    token: String,
}

type FormResult = Result<Form<TokenForm>, FormRejection>;

/// Returns the token in the `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Rejects a request without the token.
fn authorize(page: &Page, headers: &HeaderMap, form: FormResult) -> Result<(), PageError> {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if matches!(site, Some("cross-site" | "same-site")) {
        return Err(PageError::CrossSite);
    }
    let token = match (bearer(headers), &form) {
        (Some(token), _) => token,
        (None, Ok(Form(TokenForm { token }))) => token,
        (None, Err(_)) => return Err(PageError::Token),
    };
    if page.is_token(token) { Ok(()) } else { Err(PageError::Token) }
}

async fn start(
    State(page): State<Arc<Page>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Redirect, PageError> {
    authorize(&page, &headers, form)?;
    let run = page.request(Action::Start(job)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn stop(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Redirect, PageError> {
    authorize(&page, &headers, form)?;
    page.request(Action::Stop(run)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn retry(
    State(page): State<Arc<Page>>,
    Path(run): Path<RunId>,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Redirect, PageError> {
    authorize(&page, &headers, form)?;
    page.request(Action::Retry(run)).await?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

async fn health(State(page): State<Arc<Page>>) -> Response {
    match page.board.since_tick() {
        Some(since) if since < TICK_AGE_MAX => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the scheduler is stalled\n").into_response(),
    }
}

async fn metrics(State(page): State<Arc<Page>>) -> Result<impl IntoResponse, PageError> {
    let text = metrics::text(&page.board, &page.history())?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
