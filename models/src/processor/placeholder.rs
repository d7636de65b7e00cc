//! How media stand in a prompt: the template's mark, and what it becomes before it is tokenised.
//!
//! In the order of the processors of transformers 4.57: the text grows first, then the tokenizer
//! reads it, so that line breaks beside a mark are one piece with those of the text.

use super::image::ImageGrid;
use crate::bundle::{Bundle, BundleError, Reader, SoundConfig};

/// How one kind of medium stands in a prompt.
#[derive(Debug)]
pub(super) struct Placeholder {
    /// `image` or `audio`.
    pub(super) modality: &'static str,
    /// What the template writes for one medium.
    pub(super) marker: String,
    /// The token that stands for one feature.
    token: String,
    expansion: Expansion,
}

/// What the mark of one medium becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expansion {
    /// So many tokens.
    Repeated(usize),
    /// A token for each patch of so many pixels, and so many more or fewer.
    PerPatch { patch: usize, more: usize, fewer: usize },
    /// For each tile two marks and so many tokens, then for the whole picture.
    Tiles { n_tokens: usize },
    /// So many tokens between two marks, with empty lines around.
    Framed { n_tokens: usize, before: String, after: String },
    /// A token for a square of patches of this edge.
    PerSquare { edge: usize },
    /// A mark, then so many tokens for each clip.
    PerClip { n_tokens: usize, before: &'static str },
    /// A token for each stack of `factor` states, of which each stands for `stride` frames, and so many
    /// more.
    PerStack { stride: usize, factor: usize, more: usize },
    /// As many tokens as the crops of a picture make.
    PerCrops,
}

/// How one medium lies in what its encoder reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout<'a> {
    Image(&'a ImageGrid),
    Sound(Clips),
}

/// Clips of one length, of which a sound consists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clips {
    pub(super) n_clips: usize,
    /// Frames of each.
    pub(super) n_frames: usize,
}

/// The marks of Idefics3 and SmolVLM, which their processors know by name.
const AROUND_IMAGE: &str = "<fake_token_around_image>";
const GLOBAL_IMAGE: &str = "<global-img>";

/// The mark before a sound of Voxtral, which its processor knows by name.
const BEGIN_AUDIO: &str = "[BEGIN_AUDIO]";

impl Placeholder {
    /// Returns what the mark of one medium becomes.
    pub(super) fn text(&self, layout: Layout<'_>) -> String {
        let repeated = |n: usize| self.token.repeat(n);
        match (&self.expansion, layout) {
            (Expansion::Repeated(n), _) => repeated(*n),
            (
                Expansion::PerPatch { patch, more, fewer },
                Layout::Image(ImageGrid::Whole { height, width }),
            ) => repeated(((height / patch) * (width / patch) + more).saturating_sub(*fewer)),
            (Expansion::Tiles { n_tokens }, Layout::Image(ImageGrid::Tiles { rows, columns })) => {
                let mut text = String::new();
                for row in 1..=*rows {
                    for column in 1..=*columns {
                        text += &format!("{AROUND_IMAGE}<row_{row}_col_{column}>");
                        text += &repeated(*n_tokens);
                    }
                    text.push('\n');
                }
                if *rows > 0 {
                    text.push('\n');
                }
                text + AROUND_IMAGE + GLOBAL_IMAGE + &repeated(*n_tokens) + AROUND_IMAGE
            }
            (Expansion::Framed { n_tokens, before, after }, _) => {
                format!("\n\n{before}{}{after}\n\n", repeated(*n_tokens))
            }
            (Expansion::PerSquare { edge }, Layout::Image(ImageGrid::Patches(grid))) => {
                repeated(grid.iter().product::<usize>() / (edge * edge))
            }
            (Expansion::PerClip { n_tokens, before }, Layout::Sound(clips)) => {
                format!("{before}{}", repeated(n_tokens * clips.n_clips))
            }
            (Expansion::PerStack { stride, factor, more }, Layout::Sound(clips)) => {
                repeated(more + clips.n_frames.div_ceil(*stride).div_ceil(*factor))
            }
            (Expansion::PerCrops, Layout::Image(ImageGrid::Crops(grid))) => {
                repeated(grid.n_tokens())
            }
            // An image processor of another kind than the model's: refused when the bundle opens.
            _ => String::new(),
        }
    }
}

/// Returns how the media of a bundle stand in its prompts; `special` are the contents and ids of the
/// tokenizer's special tokens.
pub(super) fn placeholders(
    bundle: &Bundle,
    special: &[(String, u32)],
) -> Result<Vec<Placeholder>, BundleError> {
    let modalities = bundle.modalities();
    let config = &bundle.processor;
    let mut found = Vec::new();
    if let Some(token_id) = bundle.config.image_token_id.filter(|_| modalities.image) {
        let token = token_of(special, token_id, "image_token_id")?;
        agree("image", config.image_token.as_ref(), &token)?;
        let (expansion, marker) = image_expansion(bundle, special, &token)?;
        found.push(Placeholder { modality: "image", marker, token, expansion });
    }
    if let Some(token_id) = bundle.config.audio_token_id.filter(|_| modalities.audio) {
        let token = token_of(special, token_id, "audio_token_id")?;
        agree("audio", config.audio_token.as_ref(), &token)?;
        let expansion = audio_expansion(bundle, special)?;
        found.push(Placeholder { modality: "audio", marker: token.clone(), token, expansion });
    }
    Ok(found)
}

/// Returns what an image's mark becomes, and the mark.
fn image_expansion(
    bundle: &Bundle,
    special: &[(String, u32)],
    token: &str,
) -> Result<(Expansion, String), BundleError> {
    let config = &bundle.processor;
    let images = config.image_processor.as_ref();
    // PaliGemma's processor has its number from the image processor.
    let of_images = images.and_then(|images| images.rest.get("image_seq_length")?.as_u64());
    let of_images = of_images.and_then(|n| usize::try_from(n).ok());
    let expansion = match bundle.reader() {
        None | Some(Reader::Legenda) => {
            Expansion::Repeated(length("image", config.image_seq_length)?)
        }
        Some(Reader::PaliGemma) => {
            Expansion::Repeated(length("image", of_images.or(config.image_seq_length))?)
        }
        Some(Reader::Llava) => match (config.patch_size, bundle.config.reader.image_seq_length) {
            (Some(patch), _) if patch > 0 => {
                let strategy = config.vision_feature_select_strategy.as_deref();
                Expansion::PerPatch {
                    patch,
                    more: config.num_additional_image_tokens,
                    fewer: usize::from(strategy == Some("default")),
                }
            }
            (_, Some(n_tokens)) => Expansion::Repeated(n_tokens),
            _ => return Err(inconsistent("`patch_size` is missing or 0".to_owned())),
        },
        // 169 and 256 are what the processors of transformers 4.57 take where nothing is said.
        Some(Reader::Idefics3) => {
            Expansion::Tiles { n_tokens: length("image", config.image_seq_length.or(Some(169)))? }
        }
        Some(reader @ (Reader::Gemma3 | Reader::Gemma3n)) => {
            let ids = &bundle.config.reader;
            let before = mark_of(special, ids.boi_token_id, "boi_token_id")?;
            let after = mark_of(special, ids.eoi_token_id, "eoi_token_id")?;
            let n_tokens = length("image", config.image_seq_length.or(Some(256)))?;
            // The template writes the mark before a picture in the one, the token in the other.
            let marker = if reader == Reader::Gemma3 { before.as_str() } else { token }.to_owned();
            return Ok((Expansion::Framed { n_tokens, before, after }, marker));
        }
        Some(Reader::Phi4) => Expansion::PerCrops,
        Some(Reader::Ultravox | Reader::Voxtral) => {
            return Err(inconsistent("this model reads no pictures".to_owned()));
        }
        Some(Reader::Qwen2Vl) => {
            let merge = images.and_then(|images| images.rest.get("merge_size")?.as_u64());
            let edge = merge.map_or(Some(2), |n| usize::try_from(n).ok()).filter(|n| *n > 0);
            let of_model = bundle.config.reader.spatial_merge_size();
            if edge != Some(of_model) {
                return Err(inconsistent(format!(
                    "`merge_size` is not {of_model}, the `spatial_merge_size` of `config.json`"
                )));
            }
            Expansion::PerSquare { edge: of_model }
        }
    };
    Ok((expansion, token.to_owned()))
}

/// Returns what a sound's mark becomes.
fn audio_expansion(bundle: &Bundle, special: &[(String, u32)]) -> Result<Expansion, BundleError> {
    let config = &bundle.processor;
    Ok(match bundle.reader() {
        Some(Reader::Phi4) => {
            let factor = match &config.feature_extractor {
                Some(SoundConfig::Phi4(config)) => config.audio_compression_rate,
                _ => 8,
            };
            Expansion::PerStack { stride: 1, factor: factor.max(1), more: 0 }
        }
        Some(Reader::Gemma3n) => {
            let ids = &bundle.config.reader;
            Expansion::Framed {
                // 188 is what the processor of transformers 4.57 takes where nothing is said.
                n_tokens: length("audio", config.audio_seq_length.or(Some(188)))?,
                before: mark_of(special, ids.boa_token_id, "boa_token_id")?,
                after: mark_of(special, ids.eoa_token_id, "eoa_token_id")?,
            }
        }
        Some(Reader::Voxtral) => Expansion::PerClip {
            n_tokens: bundle.config.reader.features_per_clip(),
            before: BEGIN_AUDIO,
        },
        Some(Reader::Ultravox) => {
            // 320 and 8 are what the processor takes where nothing is said.
            let hop = match &config.feature_extractor {
                Some(SoundConfig::LogMel(mel)) => mel.hop_length.max(1),
                _ => 1,
            };
            let stride = config.encoder_ds_factor.unwrap_or(320) / hop;
            let factor = config.stack_factor.or(bundle.config.reader.stack_factor).unwrap_or(8);
            if stride == 0 || factor == 0 {
                return Err(inconsistent(
                    "`encoder_ds_factor` or `stack_factor` is too small".to_owned(),
                ));
            }
            // transformers.js counts one more, and the published graphs with it.
            Expansion::PerStack { stride, factor, more: 1 }
        }
        _ => Expansion::Repeated(length("audio", config.audio_seq_length)?),
    })
}

fn length(modality: &str, n_tokens: Option<usize>) -> Result<usize, BundleError> {
    n_tokens
        .filter(|n| *n > 0)
        .ok_or_else(|| inconsistent(format!("`{modality}_seq_length` is missing or 0")))
}

fn agree(modality: &str, of_config: Option<&String>, token: &str) -> Result<(), BundleError> {
    match of_config {
        Some(other) if other != token => Err(inconsistent(format!(
            "`{modality}_token` is not `{token}`, the token of `{modality}_token_id`"
        ))),
        _ => Ok(()),
    }
}

/// Returns a token that stands before or behind a medium.
fn mark_of(special: &[(String, u32)], id: Option<i64>, key: &str) -> Result<String, BundleError> {
    match id {
        Some(id) => token_of(special, id, key),
        None => Err(inconsistent(format!("`{key}` of `config.json` is missing"))),
    }
}

fn token_of(special: &[(String, u32)], id: i64, key: &str) -> Result<String, BundleError> {
    let found = special.iter().find(|(_, other)| i64::from(*other) == id);
    found.map(|(text, _)| text.clone()).ok_or_else(|| {
        inconsistent(format!(
            "`{key}` = {id} of `config.json` is no special token of `tokenizer.json`"
        ))
    })
}

fn inconsistent(message: String) -> BundleError {
    BundleError::Inconsistent { file: "processor_config.json", message }
}
