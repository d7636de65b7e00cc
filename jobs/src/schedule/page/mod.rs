//! The status page, health check and metrics. The page shows the board and the history, and sends
//! requested actions to the scheduler loop.
//!
//! Anyone who can reach the address can read the page. To start, stop or retry runs and to see the error
//! in a job file, a request needs the token, in a form field or as `Authorization: Bearer`. Browsers never
//! send the token by themselves, so no other site can forge a request.

mod about;
mod error;
mod host;
mod lines;
mod metrics;
mod routes;
mod server;
mod statistics;
mod views;

pub(crate) use self::{host::PageHost, routes::Page, server::serve};
