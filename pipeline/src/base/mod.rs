//! What every other group uses: folders and stores, memory budgets, and the guard around third-party code.

pub(crate) mod budget;
pub(crate) mod crash;
pub(crate) mod excerpt;
pub(crate) mod guard;
pub(crate) mod store;
