//! What `config.json` says of an encoder.

/// What `config.json` says of an encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncoderConfig {
    /// The most positions of its output; `None` where they are as many as the input's tokens.
    pub(crate) positions: Option<usize>,
    /// The size of a position of its output.
    pub(crate) hidden_size: usize,
    /// Whether positions are relative, so that a text may have any length.
    pub(crate) is_relative: bool,
}
