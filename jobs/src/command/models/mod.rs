//! `legenda models`.

mod bundle;
mod check;
mod known;
mod list;
mod models;
mod object;
mod pull;
mod show;

pub(crate) use self::models::models;
