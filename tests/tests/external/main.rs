//! Tests that need an external program, such as a browser or an S3 server.

#[cfg(unix)]
mod browser;
mod openings;
#[cfg(unix)]
mod pages;
mod s3_server;
mod soak;
