//! Prompt tokens that the model chooses itself, such as the language of an audio input.

use super::{Engine, Finished, GenerateError};

impl Engine {
    /// Resolves the prompt tokens that the model has to choose, and keeps prompts that a fallback
    /// may need again.
    pub(super) fn choose_tokens(&mut self, finished: &mut Vec<Finished>) {
        for row_slot in 0..self.rows.len() {
            let waiting = self.rows[row_slot].as_ref().and_then(|row| row.prompt.as_ref());
            if let Some((prompt, choice)) = waiting.and_then(|p| Some((p, p.choice()?))) {
                let peeked = self.decoder.peek(prompt, choice.position, &mut self.peeked);
                let scores = self.peeked.row(0);
                let score = |id: i64| usize::try_from(id).ok().and_then(|idx| scores.get(idx));
                let known = choice.candidates.iter().filter_map(|id| Some((*id, *score(*id)?)));
                // Among equal scores, the first candidate wins.
                let best = known.reduce(|best, next| if next.1 > best.1 { next } else { best });
                match (peeked, best) {
                    (Err(error), _) => self.finish(row_slot, Err(error.into()), finished),
                    (Ok(()), None) => {
                        let error = GenerateError::NoToken { n_generated: 0 };
                        self.finish(row_slot, Err(error), finished);
                    }
                    (Ok(()), Some((token_id, _))) => {
                        self.rows[row_slot].iter_mut().for_each(|row| row.choose(token_id));
                    }
                }
            }
            if self.fallback.is_some()
                && let Some(row) = &mut self.rows[row_slot]
                && row.kept_prompt.is_none()
            {
                row.kept_prompt.clone_from(&row.prompt);
            }
        }
    }
}
