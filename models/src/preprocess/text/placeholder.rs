//! The placeholders of media in a prompt: the template's marker, and its expansion before
//! tokenisation.
//!
//! The order is that of the processors of transformers 4.57: the text is expanded first and then
//! tokenised, so that line breaks next to a marker merge with those of the text.

use crate::{
    arch::{Expansion, PromptConfigs, PromptLayout, inconsistent},
    bundle::Bundle,
    config::BundleError,
    preprocess::ImageLayout,
};

/// The placeholder of one modality.
#[derive(Debug)]
pub(super) struct Placeholder {
    /// `image` or `audio`.
    pub(super) modality: &'static str,
    /// The text that the template writes for one medium.
    pub(super) marker: String,
    /// The token that stands for one feature.
    token: String,
    expansion: Expansion,
}

/// The layout of one medium in the encoder input.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout<'a> {
    Image(&'a ImageLayout),
    Sound(Clips),
}

/// The clips of an audio input, all of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::preprocess) struct Clips {
    pub(in crate::preprocess) n_clips: usize,
    /// The number of frames per clip.
    pub(in crate::preprocess) n_frames: usize,
}

impl Placeholder {
    /// Returns the expansion of the marker of one medium.
    pub(super) fn text(&self, layout: Layout<'_>) -> String {
        let repeated = |n: usize| self.token.repeat(n);
        match (&self.expansion, layout) {
            (Expansion::Repeated(n), _) => repeated(*n),
            (
                Expansion::PerPatch { patch, more, fewer },
                Layout::Image(ImageLayout::Whole { height, width }),
            ) => repeated(((height / patch) * (width / patch) + more).saturating_sub(*fewer)),
            (
                Expansion::Tiles { n_tokens, separator, global },
                Layout::Image(ImageLayout::Tiles { rows, columns }),
            ) => {
                let mut text = String::new();
                for row in 1..=*rows {
                    for column in 1..=*columns {
                        text += &format!("{separator}<row_{row}_col_{column}>");
                        text += &repeated(*n_tokens);
                    }
                    text.push('\n');
                }
                if *rows > 0 {
                    text.push('\n');
                }
                text + separator + global + &repeated(*n_tokens) + separator
            }
            (Expansion::Framed { n_tokens, before, after }, _) => {
                format!("\n\n{before}{}{after}\n\n", repeated(*n_tokens))
            }
            (Expansion::PerSquare { edge }, Layout::Image(ImageLayout::Patches(grid))) => {
                repeated(grid.iter().product::<usize>() / (edge * edge))
            }
            (Expansion::PerClip { n_tokens, before }, Layout::Sound(clips)) => {
                format!("{before}{}", repeated(n_tokens * clips.n_clips))
            }
            (Expansion::PerStack { stride, factor, more }, Layout::Sound(clips)) => {
                repeated(more + clips.n_frames.div_ceil(*stride).div_ceil(*factor))
            }
            (Expansion::PerCrop, Layout::Image(ImageLayout::Crops(grid))) => {
                repeated(grid.n_tokens())
            }
            // The image layout and the audio features are checked when the processor opens.
            _ => unreachable!("{:?} of {layout:?}", self.expansion),
        }
    }
}

/// Returns the placeholders of a bundle's modalities. `special` has the contents and ids of the
/// tokenizer's special tokens.
pub(super) fn placeholders(
    bundle: &Bundle,
    special: &[(String, u32)],
) -> Result<Vec<Placeholder>, BundleError> {
    let (modalities, config) = (bundle.modalities(), &bundle.config);
    let configs =
        PromptConfigs { model: config, processor: &bundle.processor, special_tokens: special };
    let image = bundle.arch.image.as_ref().filter(|_| modalities.image);
    let audio = bundle.arch.audio.as_ref().filter(|_| modalities.audio);
    let (image_token, audio_token) =
        (&configs.processor.image_token, &configs.processor.audio_token);
    let media = [
        ("image", config.image_token_id, image_token, image.map(|spec| spec.expansion)),
        ("audio", config.audio_token_id, audio_token, audio.map(|spec| spec.expansion)),
    ];
    let mut found = Vec::new();
    for (modality, token_id, named, expansion) in media {
        let Some(expansion) = expansion else { continue };
        let token = configs.special_token(token_id, &format!("{modality}_token_id"))?;
        if named.as_ref().is_some_and(|named| *named != token) {
            return Err(inconsistent(format!(
                "`{modality}_token` differs from `{token}`, the token of `{modality}_token_id`"
            )));
        }
        let PromptLayout { marker, expansion } = expansion(&configs)?;
        let marker = marker.unwrap_or_else(|| token.clone());
        found.push(Placeholder { modality, marker, token, expansion });
    }
    Ok(found)
}
