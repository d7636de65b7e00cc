//! Writable folders, on a local disk or in an object store. The rest of the crate addresses files by key
//! (`rejects/rejects-….parquet`); writes are atomic.
//!
//! The only module that uses `object_store`.

pub(crate) mod address;
mod calls;
pub(crate) mod confined;
mod error;
mod fault;
mod folder;
mod hold;
mod json;
mod keys;
mod layout;
mod lease;
mod local;
mod object;
mod open;
mod remote;
mod wire;

pub use self::{
    address::public_location,
    error::WriteError,
    fault::{StoreFault, fault_of},
    folder::Folder,
    keys::is_url,
    layout::BESIDE,
    lease::LeaseTerms,
};
pub(crate) use self::{
    calls::retries,
    error::{LocationError, ReadError},
    fault::last_cause,
    hold::{Hold, HoldError},
    json::json,
    keys::{is_web, key_of},
    layout::PLAN,
    object::{ObjectAt, Reading},
    open::Reach,
};
