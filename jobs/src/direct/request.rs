//! What a command asks for.

use legenda_schemas::job::{SidecarExtension, TaskKind};

use crate::cli::{AskArgs, CaptionArgs, DirectArgs, EmbedArgs, SidecarArgs, TranscribeArgs};

/// A task on paths.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(super) task: TaskKind,
    pub(super) paths: &'a [String],
    /// The prompt: that of the command, or the question.
    pub(super) prompt: Option<&'a str>,
    /// Whether the prompt is a question about a row.
    pub(super) is_question: bool,
    pub(super) language: Option<&'a str>,
    pub(super) sidecars: Vec<SidecarExtension>,
    pub(super) args: &'a DirectArgs,
}

impl<'a> From<&'a CaptionArgs> for Request<'a> {
    fn from(args: &'a CaptionArgs) -> Self {
        Self {
            task: TaskKind::Caption,
            paths: &args.paths,
            prompt: args.prompt.as_deref(),
            is_question: false,
            language: None,
            sidecars: sidecars(args.sidecars, false, false),
            args: &args.direct,
        }
    }
}

impl<'a> From<&'a AskArgs> for Request<'a> {
    fn from(args: &'a AskArgs) -> Self {
        let (question, paths) = match args.paths_and_question.as_slice() {
            [paths @ .., question] => (Some(question.as_str()), paths),
            [] => (None, &[][..]),
        };
        Self {
            task: TaskKind::Answer,
            paths,
            prompt: question,
            is_question: true,
            language: None,
            sidecars: sidecars(args.sidecars, false, false),
            args: &args.direct,
        }
    }
}

impl<'a> From<&'a TranscribeArgs> for Request<'a> {
    fn from(args: &'a TranscribeArgs) -> Self {
        Self {
            task: TaskKind::Transcribe,
            paths: &args.paths,
            prompt: args.prompt.as_deref(),
            is_question: false,
            language: args.language.as_deref(),
            sidecars: sidecars(args.sidecars, args.srt, args.vtt),
            args: &args.direct,
        }
    }
}

impl<'a> From<&'a EmbedArgs> for Request<'a> {
    fn from(args: &'a EmbedArgs) -> Self {
        Self {
            task: TaskKind::Embed,
            paths: &args.paths,
            prompt: args.prompt.as_deref(),
            is_question: false,
            language: None,
            sidecars: Vec::new(),
            args: &args.direct,
        }
    }
}

fn sidecars(args: SidecarArgs, srt: bool, vtt: bool) -> Vec<SidecarExtension> {
    let chosen = [
        (args.txt, SidecarExtension::Txt),
        (args.json, SidecarExtension::Json),
        (srt, SidecarExtension::Srt),
        (vtt, SidecarExtension::Vtt),
    ];
    chosen.into_iter().filter_map(|(is_chosen, extension)| is_chosen.then_some(extension)).collect()
}
