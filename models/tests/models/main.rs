//! Processors, graphs and decoding rules, compared with stored reference results, without the
//! binary.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed"
)]

mod conversations;
mod decoding_rules;
mod device;
mod embeddings;
mod encoder_decoders;
mod engine;
mod families;
mod golden;
mod listeners;
mod mixed;
mod parity;
mod quantized;
mod readers;
mod references;
mod sequential;
mod support;
mod tasks;
mod text;
