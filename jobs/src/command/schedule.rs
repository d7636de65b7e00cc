//! `legenda schedule`.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context;

use super::{eprint, run::Signals};
use crate::{
    cli::ScheduleArgs,
    failure::{Exit, Failure},
    schedule::{
        board::Board,
        clock,
        history::History,
        hooks::HookSender,
        page::{self, Page},
        process::{LaunchOptions, Processes},
        service::{Event, Service, ServiceError},
        state::StateDir,
    },
};

/// The maximum wait at shutdown for responses of the page in progress.
const RESPONSES_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the jobs of a folder on their schedules until a signal arrives.
pub(crate) fn schedule(args: &ScheduleArgs) -> Result<Exit, Failure> {
    let dir = std::fs::canonicalize(&args.dir)
        .with_context(|| format!("failed to open the job folder `{}`", args.dir.display()))
        .map_err(Failure::config)?;
    let state = args.state.clone().unwrap_or_else(|| dir.join(".legenda"));
    let state = StateDir::acquire(&state).map_err(service_failure)?;
    let history_path = state.history().map_err(service_failure)?;
    let history = History::open(&history_path).map_err(Failure::config)?;
    let reports = state.reports().map_err(service_failure)?;
    let token = token(args.token_env.as_deref())?;
    let binary = std::env::current_exe()
        .context("failed to find the path of this executable")
        .map_err(Failure::internal)?;

    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start worker threads")
        .map_err(Failure::resumable)?;
    let (sender, events) = mpsc::channel();
    let board = Arc::new(Board::default());
    let page = || -> Result<Page, Failure> {
        let history = History::open_read_only(&history_path).map_err(Failure::config)?;
        let (data, names) = ((history, reports.clone()), args.page_hosts.clone());
        Ok(Page::new(data, Arc::clone(&board), sender.clone(), &token.text, names))
    };
    let server = match args.no_page {
        true => None,
        false => Some(executor.block_on(serve(args.listen, page()?))?),
    };
    if let Some(PageServer { address, .. }) = &server {
        eprint(&format!("page at http://{address}/"));
        if token.is_generated {
            eprint(&format!("token {}", token.text));
        }
    }
    listen_for_signals(&executor, sender.clone())?;

    let secret_env = args.token_env.clone();
    let hook_sender = HookSender::new(executor.handle().clone(), sender.clone(), secret_env)
        .context("failed to create the webhook client")
        .map_err(Failure::internal)?;
    let launch = LaunchOptions {
        binary,
        dir: dir.clone(),
        reports: reports.clone(),
        offline: args.offline,
        secret_env: args.token_env.clone(),
    };
    let effects = Processes::new(launch, sender, Arc::clone(&board), hook_sender);
    eprint(&format!("schedule: started for {}", dir.display()));
    let service = Service {
        dir,
        history,
        effects,
        parallel: args.parallel.get(),
        events,
        board,
        now: clock::now,
    };
    let result = service.run().map_err(service_failure);
    drop(server);
    executor.shutdown_timeout(RESPONSES_TIMEOUT);
    result?;
    eprint("schedule: stopped; unfinished runs resume at the next start");
    Ok(Exit::Done)
}

fn service_failure(error: ServiceError) -> Failure {
    match error {
        ServiceError::History(_) => Failure::resumable(error),
        _ => Failure::config(error),
    }
}

/// The token that authorizes the actions of the page.
struct Token {
    text: String,
    /// Whether this program generated it.
    is_generated: bool,
}

/// Returns the token of the environment variable `name`, or generates one.
fn token(name: Option<&str>) -> Result<Token, Failure> {
    if let Some(name) = name {
        let text = std::env::var(name).unwrap_or_default();
        if text.trim().is_empty() {
            return Err(Failure::config(anyhow::anyhow!(
                "invalid `--token-env`: the environment variable `{name}` is not set or empty"
            )));
        }
        return Ok(Token { text: text.trim().to_owned(), is_generated: false });
    }
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::internal(anyhow::anyhow!("failed to generate a token: {error}"))
    })?;
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Token { text, is_generated: true })
}

/// The server of the page.
struct PageServer {
    address: SocketAddr,
    /// Stops the server when dropped.
    _shutdown: tokio::sync::watch::Sender<()>,
}

async fn serve(listen: SocketAddr, page: Page) -> Result<PageServer, Failure> {
    let listener = tokio::net::TcpListener::bind(listen).await;
    let listener = listener
        .with_context(|| format!("failed to listen on {listen}"))
        .map_err(|error| Failure::config(error).hint("pass another address to `--listen`"))?;
    let address = listener.local_addr().map_err(Failure::internal)?;
    let (shutdown, on_shutdown) = tokio::sync::watch::channel(());
    tokio::spawn(page::serve(listener, page.router(), on_shutdown));
    Ok(PageServer { address, _shutdown: shutdown })
}

fn listen_for_signals(
    executor: &tokio::runtime::Runtime,
    events: mpsc::Sender<Event>,
) -> Result<(), Failure> {
    let _guard = executor.enter();
    let mut signals = Signals::new(false)?;
    executor.spawn(async move {
        loop {
            signals.next().await;
            eprint("stopping: waiting for runs to commit their work; a second signal kills them");
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    });
    Ok(())
}
