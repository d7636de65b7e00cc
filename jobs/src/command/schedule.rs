//! `legenda schedule`.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context;

use super::{run::Signals, tell};
use crate::{
    cli::ScheduleArgs,
    failure::{Exit, Failure},
    schedule::{
        board::Board,
        clock,
        history::History,
        hooks::Teller,
        page::{self, Page},
        process::{Launch, Processes},
        service::{Event, Service, ServiceError},
        state::StateDir,
    },
};

/// How long answers of the page that are under way are waited for at the end.
const ANSWERS_WAITED: Duration = Duration::from_secs(1);

/// Runs the jobs of a folder when they are due, until a signal comes.
pub(crate) fn schedule(args: &ScheduleArgs) -> Result<Exit, Failure> {
    let dir = std::fs::canonicalize(&args.dir)
        .with_context(|| format!("cannot find the folder of job files `{}`", args.dir.display()))
        .map_err(Failure::config)?;
    let state = args.state.clone().unwrap_or_else(|| dir.join(".legenda"));
    let state = StateDir::take(&state).map_err(service_failure)?;
    let history_path = state.history().map_err(service_failure)?;
    let history = History::open(&history_path).map_err(Failure::config)?;
    let reports = state.reports().map_err(service_failure)?;
    let token = token(args.token_env.as_deref())?;
    let binary = std::env::current_exe()
        .context("cannot find this program, which runs are started by")
        .map_err(Failure::fault)?;

    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the service")
        .map_err(Failure::resumable)?;
    let (sender, events) = mpsc::channel();
    let board = Arc::new(Board::default());
    let page = || -> Result<Page, Failure> {
        let history = History::open_to_read(&history_path).map_err(Failure::config)?;
        let (told, names) = ((history, reports.clone()), args.page_hosts.clone());
        Ok(Page::new(told, Arc::clone(&board), sender.clone(), &token.text, names))
    };
    let served = match args.no_page {
        true => None,
        false => Some(executor.block_on(serve(args.listen, page()?))?),
    };
    if let Some(Served { address, .. }) = &served {
        tell(&format!("page at http://{address}/"));
        if token.is_made {
            tell(&format!("token {}", token.text));
        }
    }
    listen_for_signals(&executor, sender.clone())?;

    let secret_env = args.token_env.clone();
    let teller = Teller::new(executor.handle().clone(), sender.clone(), secret_env)
        .context("cannot make the client of webhooks")
        .map_err(Failure::fault)?;
    let launch = Launch {
        binary,
        dir: dir.clone(),
        reports: reports.clone(),
        offline: args.offline,
        secret_env: args.token_env.clone(),
    };
    let outside = Processes::new(launch, sender, Arc::clone(&board), teller);
    tell(&format!("schedule of {}: begun", dir.display()));
    let service = Service {
        dir,
        history,
        outside,
        parallel: args.parallel.get(),
        events,
        board,
        now: clock::now,
    };
    let worked = service.work().map_err(service_failure);
    drop(served);
    executor.shutdown_timeout(ANSWERS_WAITED);
    worked?;
    tell("schedule: ended; what was at work goes on when it begins again");
    Ok(Exit::Done)
}

fn service_failure(error: ServiceError) -> Failure {
    match error {
        ServiceError::History(_) => Failure::resumable(error),
        _ => Failure::config(error),
    }
}

/// What the page's buttons ask for.
struct Token {
    text: String,
    /// Whether nobody gave it.
    is_made: bool,
}

/// Returns the token of the environment variable `name`, or makes one.
fn token(name: Option<&str>) -> Result<Token, Failure> {
    if let Some(name) = name {
        let text = std::env::var(name).unwrap_or_default();
        if text.trim().is_empty() {
            return Err(Failure::config(anyhow::anyhow!(
                "the environment variable `{name}` of `--token-env` holds no token"
            )));
        }
        return Ok(Token { text: text.trim().to_owned(), is_made: false });
    }
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::fault(anyhow::anyhow!("cannot make a token: {error}")))?;
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Token { text, is_made: true })
}

/// A page that is served.
struct Served {
    address: SocketAddr,
    /// The page is served as long as this is held.
    _end: tokio::sync::watch::Sender<()>,
}

async fn serve(listen: SocketAddr, page: Page) -> Result<Served, Failure> {
    let listener = tokio::net::TcpListener::bind(listen).await;
    let listener = listener
        .with_context(|| format!("cannot listen at {listen}: choose another `--listen`"))
        .map_err(Failure::config)?;
    let address = listener.local_addr().map_err(Failure::fault)?;
    let (end, ended) = tokio::sync::watch::channel(());
    tokio::spawn(page::serve(listener, page.router(), ended));
    Ok(Served { address, _end: end })
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
            tell("ending: runs at work commit what they have begun; a second signal kills them");
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    });
    Ok(())
}
