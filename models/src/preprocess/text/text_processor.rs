//! The chat template and the tokenizer: records to token ids, token ids to text.
//!
//! # Text is never parsed for special tokens
//!
//! A cell may contain `<image>` or an end-of-turn token as ordinary characters. If it does, each
//! such piece is rendered as one stand-in character; then the rendered prompt is split at the
//! template's own special tokens, the stand-ins are replaced by their original text, and the pieces
//! are encoded with special tokens disabled. Text without such pieces takes the fast path and has
//! exactly the ids of the reference.

use minijinja::{
    Environment, Error as TemplateError, ErrorKind, Value, context, syntax::SyntaxConfig,
};
use tokenizers::Tokenizer;

use super::{
    placeholder::Clips, placeholder::Layout, placeholder::Placeholder, placeholder::placeholders,
    tokenizer,
};
use crate::{
    arch::{ContentOrder, PromptText},
    bundle::Bundle,
    config::BundleError,
    engine::Detokenizer,
    preprocess::{ImageLayout, ProcessError, Record},
    template::BoundedTemplate,
};

/// The fuel of a template: one unit per instruction or per 64 bytes of generated text. A prompt of
/// a few messages takes some hundreds.
const TEMPLATE_FUEL: u64 = 1_000_000;

/// The default template: the media, then the text.
const PLAIN_TEMPLATE: &str = "{% for message in messages %}{% for part in message.content %}\
    {% if part.type == 'image' %}{{ image_token }}\
    {% elif part.type == 'audio' %}{{ audio_token }}\
    {% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}";

/// Renders and tokenises the records of one bundle.
pub(crate) struct TextProcessor {
    template: BoundedTemplate,
    /// The tokenizer that parses special tokens.
    pub(super) markup: Tokenizer,
    /// The same tokenizer, which reads special tokens as ordinary text.
    plain: Tokenizer,
    /// The contents and ids of special tokens, longest first.
    special: Vec<(String, u32)>,
    placeholders: Vec<Placeholder>,
    /// Whether a chat template writes the special tokens; otherwise the tokenizer adds its own.
    is_chat: bool,
    /// Whether the template supports earlier turns.
    takes_turns: bool,
    /// Whether special tokens in the text are parsed, because the prompt of the job consists of
    /// them.
    is_task: bool,
    content: ContentOrder,
    /// Whether spaces before punctuation are removed from answers.
    cleans_up: bool,
    bos_token: String,
    eos_token: String,
    pad_token: String,
}

const TEMPLATE: &str = "chat";

/// The number of tasks listed in an error.
const TASKS_SHOWN: usize = 8;

impl TextProcessor {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and the chat template.
    pub(in crate::preprocess) fn open(bundle: &Bundle) -> Result<Self, BundleError> {
        let mut markup = tokenizer::open(bundle)?;
        // Prompts are not truncated or padded here: a prompt that is too long is rejected.
        markup.with_padding(None);
        markup.with_truncation(None).map_err(|source| BundleError::InvalidJson {
            file: "tokenizer.json".to_owned(),
            source,
        })?;
        let mut plain = markup.clone();
        plain.set_encode_special_tokens(true);
        let media_ids = media_token_ids(bundle);
        let is_task = bundle.is_prompted();
        let mut special: Vec<(String, u32)> = markup
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(id, token)| token.special || is_task || media_ids.contains(&i64::from(*id)))
            .filter(|(_, token)| !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        special.sort_unstable_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));

        let config: serde_json::Value =
            bundle.files.json_if_there("tokenizer_config.json")?.unwrap_or_default();
        let mut takes_turns = false;
        let prompt = &bundle.arch.prompt;
        let template = match prompt.template {
            Some(template) => Some(template.to_owned()),
            None if prompt.text == PromptText::Chat => {
                let template = chat_template(bundle, &config)?;
                takes_turns = template.is_some();
                template
            }
            // An encoder reads the text itself, without a template.
            None => None,
        };
        let has_media = bundle.modalities().image || bundle.modalities().audio;
        Ok(Self {
            is_chat: template.is_some(),
            takes_turns,
            is_task,
            cleans_up: config["clean_up_tokenization_spaces"] == true,
            content: match prompt.content {
                _ if template.is_none() => ContentOrder::Parts,
                Some(content) => content,
                None if has_media => ContentOrder::Parts,
                None => ContentOrder::TextThenMedia,
            },
            template: compiled(template.as_deref().unwrap_or(PLAIN_TEMPLATE))?,
            placeholders: placeholders(bundle, &special)?,
            bos_token: token_text(&config, "bos_token"),
            eos_token: token_text(&config, "eos_token"),
            pad_token: token_text(&config, "pad_token"),
            markup,
            plain,
            special,
        })
    }

    /// Renders the chat template, with one placeholder per image and audio input.
    pub(in crate::preprocess) fn prompt_text(
        &self,
        record: &Record,
    ) -> Result<String, ProcessError> {
        let earlier: Vec<&str> = record.earlier.iter().map(|turn| turn.text.as_str()).collect();
        self.render(record, record.text.as_deref(), record.system.as_deref(), &earlier)
    }

    /// Renders, expands each placeholder to the features of its medium, and tokenises.
    ///
    /// `images` and `clips` have the layout of each image and audio input.
    pub(in crate::preprocess) fn token_ids(
        &self,
        record: &Record,
        images: &[ImageLayout],
        clips: &[Clips],
    ) -> Result<Vec<i64>, ProcessError> {
        let media_are_missing = record.images.is_empty() && record.audios.is_empty();
        if media_are_missing && record.text.as_deref().is_none_or(str::is_empty) {
            return Err(ProcessError::EmptyRecord);
        }
        if !self.takes_turns && !record.earlier.is_empty() {
            return Err(ProcessError::NoConversation);
        }
        let has_markup = texts_of(record)
            .any(|text| self.special.iter().any(|(token, _)| text.contains(token.as_str())));
        let ids = if self.is_task {
            self.task_ids(record)?
        } else if !self.is_chat && self.placeholders.is_empty() {
            // The prompt is the text itself, so special tokens in it are plain text.
            self.encode(&self.plain, &self.prompt_text(record)?)?
        } else if has_markup {
            self.ids_of_guarded(record, images, clips)?
        } else {
            let rendered = self.expand(self.prompt_text(record)?, images, clips)?;
            self.encode(&self.markup, &rendered)?
        };
        Ok(ids.into_iter().map(i64::from).collect())
    }

    fn render(
        &self,
        record: &Record,
        text: Option<&str>,
        system: Option<&str>,
        earlier: &[&str],
    ) -> Result<String, ProcessError> {
        let mut content: Vec<Value> = Vec::new();
        content.extend(record.images.iter().map(|_| context! { type => "image" }));
        content.extend(record.audios.iter().map(|_| context! { type => "audio" }));
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            content.push(context! { type => "text", text => text });
        }
        let content_of = |parts: Vec<Value>, text: Option<&str>| match self.content {
            ContentOrder::Parts => Value::from(parts),
            _ => Value::from(text.unwrap_or_default()),
        };
        let mut messages = Vec::new();
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            let parts = vec![context! { type => "text", text => system }];
            let content = content_of(parts, Some(system));
            messages.push(context! { role => "system", content => content });
        }
        for (turn, &text) in record.earlier.iter().zip(earlier) {
            let content = content_of(vec![context! { type => "text", text => text }], Some(text));
            messages.push(context! { role => turn.role.as_str(), content => content });
        }
        let token = |modality: &str| {
            self.placeholders.iter().find(|p| p.modality == modality).map(|p| p.marker.as_str())
        };
        let marks = record.images.iter().filter_map(|_| token("image"));
        let marks = marks.chain(record.audios.iter().filter_map(|_| token("audio")));
        let own = text.filter(|text| !text.is_empty()).into_iter();
        let user_text = if self.content == ContentOrder::MediaThenText {
            marks.chain(own).collect()
        } else {
            // Text-only models have no markers.
            own.chain(marks).collect::<Vec<&str>>().join(" ")
        };
        messages
            .push(context! { role => "user", content => content_of(content, Some(&user_text)) });
        let values = context! {
            messages => messages,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
            image_token => token("image"),
            audio_token => token("audio"),
            add_generation_prompt => true,
        };
        self.template.render(values).map_err(template_error)
    }

    /// Encodes a record whose text contains special tokens as ordinary characters.
    fn ids_of_guarded(
        &self,
        record: &Record,
        images: &[ImageLayout],
        clips: &[Clips],
    ) -> Result<Vec<u32>, ProcessError> {
        let stand_in = unused_char(texts_of(record)).ok_or_else(|| ProcessError::Tokenizer {
            source: "the text contains every private-use character".into(),
        })?;
        // All texts share one list of pieces. Their order in the rendered prompt may differ, so
        // each piece carries its index as digits between two stand-ins.
        let mut pieces: Vec<String> = Vec::new();
        let mut guard = |text: &str| self.guard(text, stand_in, &mut pieces);
        let text = record.text.as_deref().map(&mut guard);
        let system = record.system.as_deref().map(&mut guard);
        let earlier: Vec<String> = record.earlier.iter().map(|turn| guard(&turn.text)).collect();
        let earlier: Vec<&str> = earlier.iter().map(String::as_str).collect();
        let rendered = self.render(record, text.as_deref(), system.as_deref(), &earlier)?;
        let rendered = self.expand(rendered, images, clips)?;

        let mut ids = Vec::new();
        let mut rest = rendered.as_str();
        while !rest.is_empty() {
            let next = self.special.iter().filter_map(|(token, id)| {
                rest.find(token.as_str()).map(|at| (at, token.len(), *id))
            });
            // The earliest match, and of those the longest, as in the tokenizer itself.
            let next = next.min_by_key(|(at, len, _)| (*at, std::cmp::Reverse(*len)));
            let (at, len) = next.map_or((rest.len(), 0), |(at, len, _)| (at, len));
            if at > 0 {
                let text = restore(&rest[..at], stand_in, &pieces);
                ids.extend(self.encode(&self.plain, &text)?);
            }
            ids.extend(next.map(|(_, _, id)| id));
            rest = &rest[at + len..];
        }
        Ok(ids)
    }

    /// Replaces each special token in `text` by a stand-in and adds it to `pieces`.
    fn guard(&self, text: &str, stand_in: char, pieces: &mut Vec<String>) -> String {
        let mut guarded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            let found = self.special.iter().find(|(token, _)| rest.starts_with(token.as_str()));
            let len = if let Some((token, _)) = found {
                guarded.push(stand_in);
                guarded.push_str(&pieces.len().to_string());
                guarded.push(stand_in);
                pieces.push(token.clone());
                token.len()
            } else {
                guarded.push(char);
                char.len_utf8()
            };
            rest = &rest[len..];
        }
        guarded
    }

    /// Encodes a prompt that begins with a task token. For an empty text, the model's config
    /// determines the prompt.
    fn task_ids(&self, record: &Record) -> Result<Vec<u32>, ProcessError> {
        let ids = self.encode(&self.markup, &self.prompt_text(record)?)?;
        if ids.first().is_none_or(|first| self.is_special(i64::from(*first))) {
            return Ok(ids);
        }
        let names = self.special.iter().map(|(token, _)| token.as_str());
        let tasks: Vec<String> = names
            .filter(|token| token.starts_with("<s_"))
            .take(TASKS_SHOWN)
            .map(|token| format!("`{token}`"))
            .collect();
        Err(ProcessError::NoTask { tasks: tasks.join(", ") })
    }

    /// Encodes an optional text that the answer continues, after the first decoder token.
    pub(in crate::preprocess) fn continued_ids(
        &self,
        record: &Record,
        first_id: i64,
    ) -> Result<Vec<i64>, ProcessError> {
        if !record.earlier.is_empty() {
            return Err(ProcessError::NoConversation);
        }
        if record.system.as_deref().is_some_and(|system| !system.is_empty()) {
            let source = "this model does not support a system message".into();
            return Err(ProcessError::Template { source });
        }
        let text = record.text.as_deref().unwrap_or_default();
        let encoding = tokenizer::encode(&self.plain, text, false)?;
        let ids = encoding.get_ids().iter().map(|id| i64::from(*id));
        Ok(std::iter::once(first_id).chain(ids).collect())
    }

    /// Encodes a text whose special tokens are parsed, and adds those of the tokenizer.
    pub(in crate::preprocess) fn marked_ids(&self, text: &str) -> Result<Vec<i64>, ProcessError> {
        let ids = self.encode(&self.markup, text)?;
        Ok(ids.into_iter().map(i64::from).collect())
    }

    /// Decodes `token_ids` with special tokens, except end and padding tokens.
    pub(crate) fn marked_text(&self, token_ids: &[i64]) -> String {
        let text = self.decoded(token_ids, false);
        [&self.eos_token, &self.pad_token]
            .into_iter()
            .filter(|token| !token.is_empty())
            .fold(text, |text, token| text.replace(token.as_str(), ""))
    }

    /// Returns whether a token is an added token of the tokenizer.
    pub(crate) fn is_added(&self, token: &str) -> bool {
        self.special.iter().any(|(other, _)| other == token)
    }

    fn decoded(&self, token_ids: &[i64], skips_special: bool) -> String {
        let ids: Vec<u32> = token_ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
        // This fails only if the decoder is broken for every input.
        let text = self.markup.decode(&ids, skips_special).unwrap_or_default();
        if self.cleans_up { clean_up(&text) } else { text }
    }

    /// Returns whether a token is a special token.
    pub(crate) fn is_special(&self, token_id: i64) -> bool {
        self.special.iter().any(|(_, id)| i64::from(*id) == token_id)
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ProcessError> {
        // A chat template has already written all special tokens.
        Ok(tokenizer::encode(tokenizer, text, !self.is_chat)?.get_ids().to_vec())
    }

    /// Replaces the marker of each medium by its expansion. Every medium must have one.
    fn expand(
        &self,
        rendered: String,
        images: &[ImageLayout],
        clips: &[Clips],
    ) -> Result<String, ProcessError> {
        let mut text = rendered;
        for placeholder in &self.placeholders {
            let modality = placeholder.modality;
            let layouts: Vec<Layout<'_>> = match modality {
                "image" => images.iter().map(Layout::Image).collect(),
                _ => clips.iter().copied().map(Layout::Sound).collect(),
            };
            let mut pieces = text.split(&placeholder.marker);
            let mut expanded = pieces.next().unwrap_or_default().to_owned();
            let pieces: Vec<&str> = pieces.collect();
            if pieces.len() != layouts.len() {
                let (expected, actual) = (layouts.len(), pieces.len());
                return Err(ProcessError::PlaceholderCount { modality, expected, actual });
            }
            for (layout, piece) in layouts.into_iter().zip(pieces) {
                expanded += &placeholder.text(layout);
                expanded += piece;
            }
            text = expanded;
        }
        Ok(text)
    }
}

impl Detokenizer for TextProcessor {
    fn text(&self, token_ids: &[i64]) -> String {
        self.decoded(token_ids, true)
    }
}

/// Removes spaces before punctuation and contractions, in the order of
/// `PreTrainedTokenizerBase.clean_up_tokenization` (transformers 4.57).
fn clean_up(text: &str) -> String {
    let cuts = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    cuts.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Replaces stand-ins by their original pieces.
fn restore(guarded: &str, stand_in: char, pieces: &[String]) -> String {
    let mut restored = String::with_capacity(guarded.len());
    for (part_idx, part) in guarded.split(stand_in).enumerate() {
        // Parts alternate: text, index, text, index, ...
        match part.parse::<usize>().ok().filter(|_| part_idx % 2 == 1) {
            Some(piece_idx) => restored.extend(pieces.get(piece_idx).map(String::as_str)),
            None => restored.push_str(part),
        }
    }
    restored
}

/// Returns the texts of a record that come from its row and must not be parsed for special tokens.
fn texts_of(record: &Record) -> impl Iterator<Item = &str> + Clone {
    let earlier = record.earlier.iter().map(|turn| turn.text.as_str());
    record.text.as_deref().into_iter().chain(record.system.as_deref()).chain(earlier)
}

/// Returns a private-use character that does not occur in `texts`.
fn unused_char<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Option<char> {
    ('\u{F0000}'..='\u{FFFFD}').find(|char| !texts.clone().any(|text| text.contains(*char)))
}

fn template_error(error: TemplateError) -> ProcessError {
    ProcessError::Template { source: error.into() }
}

/// Returns the chat template, in the lookup order of transformers: its own file, the JSON file, the
/// tokenizer config.
fn chat_template(
    bundle: &Bundle,
    config: &serde_json::Value,
) -> Result<Option<String>, BundleError> {
    if let Some(template) = bundle.files.text_if_there("chat_template.jinja")? {
        return Ok(Some(template));
    }
    let in_json: Option<serde_json::Value> = bundle.files.json_if_there("chat_template.json")?;
    let template = in_json.as_ref().unwrap_or(config).get("chat_template");
    let template = match template {
        // If there are several named templates, chats use `default`.
        Some(serde_json::Value::Array(named)) => named
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str()),
        one => one.and_then(serde_json::Value::as_str),
    };
    Ok(template.map(str::to_owned))
}

/// Compiles a chat template like `apply_chat_template` of transformers.
fn compiled(template: &str) -> Result<BoundedTemplate, BundleError> {
    let invalid = |error: TemplateError| BundleError::InvalidJson {
        file: "chat_template.jinja".to_owned(),
        source: error.into(),
    };
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(invalid)?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, TemplateError> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, message))
        },
    );
    BoundedTemplate::new(environment, TEMPLATE, template.to_owned(), TEMPLATE_FUEL).map_err(invalid)
}

/// Returns a token of `tokenizer_config.json`: a string, or an object with `content`.
fn token_text(config: &serde_json::Value, key: &str) -> String {
    let token = &config[key];
    token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default().to_owned()
}

/// Returns the media tokens and markers, which templates write even if the tokenizer does not
/// declare them special.
fn media_token_ids(bundle: &Bundle) -> Vec<i64> {
    let config = &bundle.config;
    let ids = [
        config.image_token_id,
        config.audio_token_id,
        config.media.boi_token_id,
        config.media.eoi_token_id,
    ];
    ids.into_iter().flatten().collect()
}
