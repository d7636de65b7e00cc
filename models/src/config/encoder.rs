//! What `config.json` says of an encoder.

/// The encoder's keys of `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncoderConfig {
    /// The maximum number of output positions; `None` if there is one per input token.
    pub(crate) positions: Option<usize>,
    /// The hidden size of the output.
    pub(crate) hidden_size: usize,
    /// Whether positions are relative, so that a text may have any length.
    pub(crate) is_relative: bool,
}
