//! The tasks of a Florence-2 bundle.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::BundleError;

/// The kind of answer of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskAnswer {
    /// Text.
    PureText,
    /// Lines of text with quadrilaterals.
    Ocr,
    /// Phrases with boxes.
    DescriptionWithBboxes,
    /// Phrases of a given caption with boxes.
    PhraseGrounding,
    /// Polygons.
    Polygons,
    /// Phrases with polygons.
    DescriptionWithPolygons,
    /// Phrases with boxes or polygons.
    DescriptionWithBboxesOrPolygons,
    /// Boxes without labels.
    Bboxes,
}

/// The tasks by their tokens, from the file for transformers.js or as hard-coded in transformers
/// 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct TaskConfig {
    pub(crate) task_prompts_without_inputs: BTreeMap<String, String>,
    pub(crate) task_prompts_with_input: BTreeMap<String, String>,
    pub(crate) tasks_answer_post_processing_type: BTreeMap<String, TaskAnswer>,
    #[serde(skip)]
    pub(crate) banned_grounding_tokens: Vec<String>,
}

/// The questions of tasks without a text argument (`Florence2Processor`, transformers 4.57).
const ALONE: [(&str, &str, TaskAnswer); 8] = [
    ("<OCR>", "What is the text in the image?", TaskAnswer::PureText),
    ("<OCR_WITH_REGION>", "What is the text in the image, with regions?", TaskAnswer::Ocr),
    ("<CAPTION>", "What does the image describe?", TaskAnswer::PureText),
    ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image.", TaskAnswer::PureText),
    (
        "<MORE_DETAILED_CAPTION>",
        "Describe with a paragraph what is shown in the image.",
        TaskAnswer::PureText,
    ),
    (
        "<OD>",
        "Locate the objects with category name in the image.",
        TaskAnswer::DescriptionWithBboxes,
    ),
    (
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        TaskAnswer::DescriptionWithBboxes,
    ),
    ("<REGION_PROPOSAL>", "Locate the region proposals in the image.", TaskAnswer::Bboxes),
];

/// The questions of tasks with a text argument.
const WITH_INPUT: [(&str, &str, TaskAnswer); 7] = [
    (
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "Locate the phrases in the caption: {input}",
        TaskAnswer::PhraseGrounding,
    ),
    (
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "Locate {input} in the image with mask",
        TaskAnswer::Polygons,
    ),
    (
        "<REGION_TO_SEGMENTATION>",
        "What is the polygon mask of region {input}",
        TaskAnswer::Polygons,
    ),
    (
        "<OPEN_VOCABULARY_DETECTION>",
        "Locate {input} in the image.",
        TaskAnswer::DescriptionWithBboxesOrPolygons,
    ),
    ("<REGION_TO_CATEGORY>", "What is the region {input}?", TaskAnswer::PureText),
    ("<REGION_TO_DESCRIPTION>", "What does the region {input} describe?", TaskAnswer::PureText),
    ("<REGION_TO_OCR>", "What text is in the region {input}?", TaskAnswer::PureText),
];

/// The phrases that the published processors do not ground (`banned_grounding_tokens`): pronouns
/// and similarly vague words.
const BANNED: &str = "it,I,me,mine,you,your,yours,he,him,his,she,her,hers,they,them,their,theirs,one,\
    oneself,we,us,our,ours,its,myself,yourself,himself,herself,itself,ourselves,yourselves,\
    themselves,this,that,these,those,who,whom,whose,which,what,all,another,any,anybody,anyone,\
    anything,each,everybody,everyone,everything,few,many,nobody,none,several,some,somebody,someone,\
    something,each other,one another,the image,image,images,the,a,an,a group,other objects,lots,\
    a set";

impl Default for TaskConfig {
    fn default() -> Self {
        let questions = |tasks: &[(&str, &str, TaskAnswer)]| {
            let tasks = tasks.iter();
            tasks.map(|(task, question, _)| ((*task).to_owned(), (*question).to_owned())).collect()
        };
        let kinds = ALONE.iter().chain(&WITH_INPUT);
        Self {
            task_prompts_without_inputs: questions(&ALONE),
            task_prompts_with_input: questions(&WITH_INPUT),
            tasks_answer_post_processing_type: kinds
                .map(|(task, _, kind)| ((*task).to_owned(), *kind))
                .collect(),
            banned_grounding_tokens: BANNED.split(',').map(str::to_owned).collect(),
        }
    }
}

impl TaskConfig {
    /// Takes the tasks out of an image processor config, if present, and reads the banned phrases
    /// from the processor config.
    pub(crate) fn take(config: &mut Value, processor: Option<&Value>) -> Result<Self, BundleError> {
        const KEYS: [&str; 3] = [
            "task_prompts_without_inputs",
            "task_prompts_with_input",
            "tasks_answer_post_processing_type",
        ];
        let mut own = serde_json::Map::new();
        if let Some(config) = config.as_object_mut() {
            own.extend(KEYS.iter().filter_map(|key| config.remove_entry(*key)));
        }
        let mut tasks: Self = serde_json::from_value(Value::Object(own)).map_err(|error| {
            BundleError::InvalidJson {
                file: "preprocessor_config.json".to_owned(),
                source: error.into(),
            }
        })?;
        let parsing = processor.map(|config| &config["post_processor_config"]);
        let banned = parsing.map(|config| &config["phrase_grounding"]["banned_grounding_tokens"]);
        tasks.banned_grounding_tokens = match banned.and_then(Value::as_array) {
            Some(banned) => banned.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => Self::default().banned_grounding_tokens,
        };
        Ok(tasks)
    }
}
