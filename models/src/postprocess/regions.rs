//! The output of Florence-2: texts and their locations in the image, as JSON.
//!
//! Locations are tokens `<loc_0>` to `<loc_999>`, in thousandths of the image's width and height.
//!
//! # Source
//!
//! `Florence2Processor.post_process_generation` and `Florence2PostProcessor` of transformers 4.57.
//! Their regular expressions are written as code here: a phrase is the text between a `<` and the
//! next, followed by at least four locations, so that it may also be the rest of a location.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    config::TaskAnswer,
    engine::{Asked, Detokenizer, Subject},
    preprocess::{Tasks, TextProcessor, is_python_space, stripped},
};

/// Decodes an answer according to its task.
pub(crate) struct Regions {
    pub(crate) text: Arc<TextProcessor>,
    pub(crate) tasks: Arc<Tasks>,
}

impl Detokenizer for Regions {
    fn text(&self, token_ids: &[i64]) -> String {
        self.text.text(token_ids)
    }

    fn answer(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let written = self.text.marked_text(token_ids);
        match asked.subject {
            Some(subject) => answer(&self.tasks, subject, &written),
            None => plain(&written),
        }
    }
}

/// Boxes with one label each.
#[derive(Serialize)]
struct Boxes {
    bboxes: Vec<Vec<i64>>,
    labels: Vec<String>,
}

/// Lines of text with quadrilaterals.
#[derive(Serialize)]
struct Lines {
    quad_boxes: Vec<Vec<i64>>,
    labels: Vec<String>,
}

/// Polygons with labels. An object in several pieces has several polygons.
#[derive(Serialize)]
struct Outlines {
    polygons: Vec<Vec<Vec<i64>>>,
    labels: Vec<String>,
}

/// Boxes or polygons.
#[derive(Default, Serialize)]
struct BoxesOrOutlines {
    bboxes: Vec<Vec<i64>>,
    bboxes_labels: Vec<String>,
    polygons: Vec<Vec<Vec<i64>>>,
    polygons_labels: Vec<String>,
}

/// Returns the content of a generated answer; JSON if it has locations.
fn answer(tasks: &Tasks, subject: &Subject, written: &str) -> String {
    let kind = tasks.answer_of(&subject.task);
    if kind == TaskAnswer::PureText {
        return plain(written);
    }
    let places = Places { size: subject.image_size };
    let bare = ["<s>", "</s>", "<pad>"].iter().fold(written.to_owned(), |t, s| t.replace(s, ""));
    let json = match kind {
        TaskAnswer::PureText | TaskAnswer::Ocr => serde_json::to_string(&places.lines(&bare)),
        TaskAnswer::DescriptionWithBboxes => serde_json::to_string(&places.boxes(&bare, |_| true)),
        TaskAnswer::PhraseGrounding => {
            serde_json::to_string(&places.boxes(&bare, |phrase| !tasks.is_banned(phrase)))
        }
        TaskAnswer::Bboxes => serde_json::to_string(&places.bare_boxes(&bare)),
        TaskAnswer::Polygons => serde_json::to_string(&places.outlines(&bare, true)),
        TaskAnswer::DescriptionWithPolygons => {
            serde_json::to_string(&places.outlines(&bare, false))
        }
        TaskAnswer::DescriptionWithBboxesOrPolygons => {
            let found = if bare.contains(POLYGON) {
                let Outlines { polygons, labels } = places.outlines(&bare, false);
                BoxesOrOutlines { polygons, polygons_labels: labels, ..BoxesOrOutlines::default() }
            } else {
                let Boxes { bboxes, labels } = places.boxes(&bare, |_| true);
                BoxesOrOutlines { bboxes, bboxes_labels: labels, ..BoxesOrOutlines::default() }
            };
            serde_json::to_string(&found)
        }
    };
    // Serialising lists of numbers and strings cannot fail.
    json.unwrap_or_default()
}

/// Returns a generated answer that is plain text.
fn plain(written: &str) -> String {
    stripped(&written.replace("<s>", "").replace("</s>", "")).to_owned()
}

const PLACE: &str = "<loc_";
const POLYGON: &str = "<poly>";
const POLYGON_END: &str = "</poly>";
const SEPARATOR: &str = "<sep>";

/// The tokens that end a phrase.
const PHRASE_ENDS: [&str; 8] =
    ["<od>", "</od>", "<box>", "</box>", "<bbox>", "</bbox>", PLACE, POLYGON];

/// The minimum number of locations after a phrase.
const PLACES_MIN: usize = 4;

/// Splits a location off the start of a text; returns its number and the rest.
fn place(text: &str) -> Option<(i64, &str)> {
    let (digits, rest) = text.strip_prefix(PLACE)?.split_once('>')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_number)?, rest))
}

/// Returns the locations at the start of a text, and the rest.
fn leading_places(mut text: &str) -> (Vec<i64>, &str) {
    let mut found = Vec::new();
    while let Some((number, rest)) = place(text) {
        found.push(number);
        text = rest;
    }
    (found, text)
}

/// Splits a location or polygon token off the start of a text; returns the rest.
fn polygon_token(text: &str) -> Option<&str> {
    let marks = [SEPARATOR, POLYGON, POLYGON_END];
    place(text)
        .map(|(_, rest)| rest)
        .or_else(|| marks.iter().find_map(|mark| text.strip_prefix(mark)))
}

/// Returns the tokens at the start of a text, if there are enough of them.
fn located<'t>(text: &'t str, token: impl Fn(&'t str) -> Option<&'t str>) -> Option<&'t str> {
    let (mut rest, mut n_tokens) = (text, 0);
    while let Some(after) = token(rest) {
        rest = after;
        n_tokens += 1;
    }
    (n_tokens >= PLACES_MIN).then(|| &text[..text.len() - rest.len()])
}

/// Returns every run of characters without a `<` that is followed by enough tokens, with those
/// tokens.
fn phrases<'t>(
    text: &'t str,
    token: impl Fn(&'t str) -> Option<&'t str> + Copy,
) -> Vec<(&'t str, &'t str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find('<').unwrap_or(rest.len());
        let (phrase, after) = rest.split_at(end);
        match located(after, token).filter(|_| !phrase.is_empty()) {
            Some(tokens) => {
                found.push((phrase, tokens));
                rest = &after[tokens.len()..];
            }
            None => rest = after.get(1..).unwrap_or_default(),
        }
    }
    found
}

/// Returns the text before the first token that ends a phrase; `None` if there is no such token, or
/// if a line ends before it.
fn said(text: &str) -> Option<&str> {
    let end = PHRASE_ENDS.iter().filter_map(|mark| text.find(mark)).min()?;
    let phrase = text[..end].trim_start_matches(is_python_space);
    (!phrase.contains('\n')).then(|| stripped(phrase))
}

/// Removes the non-ASCII characters of a label.
fn ascii(label: &str) -> String {
    label.chars().filter(char::is_ascii).collect()
}

/// Converts locations to pixels of an image of this size.
struct Places {
    /// The width and height in pixels.
    size: [usize; 2],
}

impl Places {
    /// Returns the pixels of alternating horizontal and vertical locations, at their centres.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the reference computes in 32 bits and truncates"
    )]
    fn pixels(&self, places: &[i64]) -> Vec<i64> {
        let per_place = self.size.map(|pixels| (pixels as f64 / 1000.0) as f32);
        let pixel =
            |(idx, place): (usize, &i64)| ((*place as f32 + 0.5) * per_place[idx % 2]) as i64;
        places.iter().enumerate().map(pixel).collect()
    }

    /// Returns the boxes of the locations at the start of a text, in groups of four.
    fn quadruples(&self, tokens: &str) -> Vec<Vec<i64>> {
        let (places, _) = leading_places(tokens);
        places.chunks_exact(4).map(|places| self.pixels(places)).collect()
    }

    /// Returns the boxes of each phrase for which `is_wanted` is true.
    fn boxes(&self, text: &str, is_wanted: impl Fn(&str) -> bool) -> Boxes {
        let mut found = Boxes { bboxes: Vec::new(), labels: Vec::new() };
        for (phrase, tokens) in phrases(text, |text| place(text).map(|(_, rest)| rest)) {
            // The text after a phrase begins with a token that ends the phrase.
            let Some(label) = said(&format!("{phrase}{PLACE}")).map(str::to_owned) else {
                continue;
            };
            if !is_wanted(&label) {
                continue;
            }
            for pixels in self.quadruples(tokens) {
                found.bboxes.push(pixels);
                found.labels.push(ascii(&label));
            }
        }
        found
    }

    /// Returns the boxes of every run of locations, without labels.
    fn bare_boxes(&self, text: &str) -> Boxes {
        let mut bboxes = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(PLACE) {
            rest = &rest[at..];
            let (places, after) = leading_places(rest);
            let runs = places.chunks_exact(4).filter(|_| places.len() >= PLACES_MIN);
            bboxes.extend(runs.map(|places| self.pixels(places)));
            rest = if places.is_empty() { &rest[1..] } else { after };
        }
        let labels = vec![String::new(); bboxes.len()];
        Boxes { bboxes, labels }
    }

    /// Returns the lines of text, each as short as possible, with the eight locations after them.
    fn lines(&self, text: &str) -> Lines {
        let mut found = Lines { quad_boxes: Vec::new(), labels: Vec::new() };
        let mut start = 0;
        let mut ends = text.char_indices().map(|(at, _)| at);
        while let Some(end) = ends.by_ref().find(|end| *end > start) {
            let content = &text[start..end];
            if let Some(line_end) = content.rfind('\n') {
                start += line_end + 1;
                if start >= end {
                    continue;
                }
            }
            let (places, _) = leading_places(&text[end..]);
            if let Some(places) = places.get(..8) {
                found.labels.push(stripped(&text[start..end]).to_owned());
                found.quad_boxes.push(self.pixels(places));
                let mut after = &text[end..];
                for _ in 0..8 {
                    after = place(after).map_or(after, |(_, rest)| rest);
                }
                start = text.len() - after.len();
            }
        }
        found
    }

    /// Returns the polygons of each phrase, or of every run of locations without one.
    fn outlines(&self, text: &str, allows_no_phrase: bool) -> Outlines {
        let mut found = Outlines { polygons: Vec::new(), labels: Vec::new() };
        let mut pieces: Vec<String> = Vec::new();
        if allows_no_phrase {
            let mut rest = text;
            while let Some(at) = rest.find('<') {
                rest = &rest[at..];
                match located(rest, polygon_token) {
                    Some(tokens) => {
                        pieces.push(tokens.to_owned());
                        rest = &rest[tokens.len()..];
                    }
                    None => rest = &rest[1..],
                }
            }
        } else {
            let phrases = phrases(text, polygon_token).into_iter();
            pieces.extend(phrases.map(|(phrase, tokens)| format!("{phrase}{tokens}")));
        }
        for piece in &pieces {
            let without_first = place(piece).map_or(piece.as_str(), |(_, rest)| rest);
            let Some(label) = said(without_first) else { continue };
            let is_marked = piece.contains(POLYGON) && piece.contains(POLYGON_END);
            let instances = if is_marked { marked(piece) } else { vec![piece.as_str()] };
            for instance in instances {
                let polygons = self.polygons(instance);
                if !polygons.is_empty() {
                    found.polygons.push(polygons);
                    found.labels.push(label.to_owned());
                }
            }
        }
        found
    }

    /// Returns the polygons of an object: runs of locations before a separator or the end.
    fn polygons(&self, text: &str) -> Vec<Vec<i64>> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(PLACE) {
            rest = &rest[at..];
            let (places, after) = leading_places(rest);
            if places.is_empty() {
                rest = &rest[1..];
                continue;
            }
            if after.is_empty() || after.starts_with(SEPARATOR) {
                found.push(self.pixels(&places[..places.len() / 2 * 2]));
            }
            rest = after;
        }
        found
    }
}

/// Returns the texts between polygon tokens.
fn marked(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(POLYGON) {
        let Some((inside, behind)) = after.split_once(POLYGON_END) else { break };
        found.push(inside);
        rest = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TaskConfig;

    #[test]
    fn regions_match_the_reference() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles/florence2.json");
        let reference: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let strings = |value: &serde_json::Value| -> Vec<String> {
            serde_json::from_value(value.clone()).unwrap()
        };
        let banned_grounding_tokens = strings(&reference["banned"]);
        let tasks = Tasks::new(&TaskConfig { banned_grounding_tokens, ..TaskConfig::default() });
        let cases = reference["sequences"].as_array().unwrap();
        assert!(cases.len() > 50);
        for case in cases {
            let [task, text, expected] = [0, 1, 3].map(|idx| case[idx].as_str().unwrap());
            let image_size: [usize; 2] = serde_json::from_value(case[2].clone()).unwrap();
            let subject = Subject { task: task.to_owned(), image_size };
            assert_eq!(answer(&tasks, &subject, text), expected, "{task}, {text}");
        }
    }
}
