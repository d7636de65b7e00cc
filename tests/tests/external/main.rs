//! Tests that need an external program, such as a browser or an S3 server.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "tables and reports of recipes")]

#[cfg(unix)]
mod browser;
mod s3_server;
mod soak;
