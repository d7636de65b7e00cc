//! Tests of the scheduler with the fake decoder.

use std::collections::BTreeMap;

use legenda_schemas::cause::chain;
use proptest::prelude::*;

use super::{FinishReason, Finished, GenerateError, Generation};
use crate::fake::{FakeOptions, fake_prompt};

type Outcome = Result<Generation, GenerateError>;

/// Answers prompts in order and admits at most `chunk` of them before each step.
fn run(
    options: &FakeOptions,
    max_new_tokens: usize,
    prompts: &[Vec<i64>],
    chunk: usize,
) -> BTreeMap<u64, Outcome> {
    let mut engine = options.engine(max_new_tokens);
    let mut outcomes = BTreeMap::new();
    let mut waiting = (0_u64..).zip(prompts).peekable();
    while waiting.peek().is_some() || !engine.is_idle() {
        for _ in 0..chunk.min(engine.free_slots()) {
            let Some((ticket, ids)) = waiting.next() else { break };
            engine.admit(ticket, fake_prompt(ids.clone()), ticket).unwrap();
        }
        for Finished { ticket, result } in engine.step() {
            assert!(
                outcomes.insert(ticket, result).is_none(),
                "ticket {ticket} was returned twice"
            );
        }
    }
    assert_eq!(engine.free_slots(), engine.slots());
    outcomes
}

fn prompts() -> impl Strategy<Value = Vec<Vec<i64>>> {
    prop::collection::vec(prop::collection::vec(0_i64..60, 1..30), 0..40)
}

proptest! {
    #[test]
    fn every_ticket_is_returned_once_with_its_own_answer(
        prompts in prompts(),
        slots in 1_usize..9,
        prefill_rows_max in 1_usize..5,
        chunk in 1_usize..5,
        cache_tokens_max in prop_oneof![Just(usize::MAX), 1_usize..400],
    ) {
        let options =
            FakeOptions { slots, prefill_rows_max, cache_tokens_max, ..FakeOptions::default() };
        let outcomes = run(&options, 100, &prompts, chunk);
        prop_assert_eq!(outcomes.len(), prompts.len());
        for (ids, outcome) in prompts.iter().zip(outcomes.values()) {
            let generation = outcome.as_ref().unwrap();
            let mut expected = options.answer(ids);
            expected.push(options.eos_token_id);
            prop_assert_eq!(&generation.token_ids, &expected);
            prop_assert_eq!(&generation.text, &options.answer_text(ids));
            prop_assert_eq!(generation.finish_reason, FinishReason::Stop);
            prop_assert_eq!(generation.n_prompt_tokens, ids.len());
        }
    }

    #[test]
    fn only_rows_that_fail_alone_are_errors(prompts in prompts(), slots in 1_usize..9) {
        let options = FakeOptions {
            slots,
            prefill_fails_on: [7, 21].into(),
            step_fails_on: [13].into(),
            ..FakeOptions::default()
        };
        let outcomes = run(&options, 100, &prompts, slots);
        for (ids, outcome) in prompts.iter().zip(outcomes.values()) {
            let fails = ids.iter().any(|id| [7, 13, 21].contains(id));
            prop_assert_eq!(outcome.is_err(), fails, "{:?}", ids);
            if let Err(error) = outcome {
                prop_assert_eq!(error.code(), "runtime");
                prop_assert!(chain(error).contains("scripted failure"), "{:?}", error);
            }
        }
    }

    #[test]
    fn limits_only_truncate_answers(
        prompts in prompts(),
        slots in 1_usize..5,
        max_new_tokens in 1_usize..12,
        context_tokens in 8_usize..40,
    ) {
        let options = FakeOptions { slots, context_tokens, ..FakeOptions::default() };
        let outcomes = run(&options, max_new_tokens, &prompts, slots);
        for (ids, outcome) in prompts.iter().zip(outcomes.values()) {
            if ids.len() >= context_tokens {
                prop_assert_eq!(outcome.as_ref().unwrap_err().code(), "prompt_too_long");
                continue;
            }
            let generation = outcome.as_ref().unwrap();
            let mut full = options.answer(ids);
            full.push(options.eos_token_id);
            // The last token is never fed back, so it needs no cache position.
            let limit = max_new_tokens.min(context_tokens - ids.len() + 1);
            let expected = &full[..full.len().min(limit)];
            prop_assert_eq!(&generation.token_ids[..], expected);
            let reason =
                if full.len() <= limit { FinishReason::Stop } else { FinishReason::Length };
            prop_assert_eq!(generation.finish_reason, reason);
        }
    }
}

#[test]
fn a_full_engine_returns_the_prompt() {
    let mut engine = FakeOptions { slots: 1, ..FakeOptions::default() }.engine(10);
    engine.admit(0, fake_prompt(vec![1]), 0).unwrap();
    let full = engine.admit(1, fake_prompt(vec![2, 3]), 0).unwrap_err();
    assert_eq!(full.0.token_ids(), [2, 3]);
}

#[test]
fn an_empty_prompt_is_an_error_of_its_ticket() {
    let mut engine = FakeOptions::default().engine(10);
    engine.admit(5, fake_prompt(Vec::new()), 0).unwrap();
    let finished = engine.step();
    assert_eq!(finished[0].ticket, 5);
    assert_eq!(finished[0].result.as_ref().unwrap_err().code(), "empty_prompt");
    assert!(engine.is_idle());
}

#[test]
fn an_endless_loop_ends_as_guard() {
    // With one token besides the end token, the answer repeats it forever.
    let options = FakeOptions {
        vocab_size: 2,
        answer_tokens_min: 200,
        answer_tokens_max: 200,
        ..FakeOptions::default()
    };
    let outcomes = run(&options, 150, &[vec![1]], 1);
    let generation = outcomes[&0].as_ref().unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Guard);
    assert_eq!(generation.token_ids.len(), 64);
}

#[test]
fn a_short_row_finishes_before_an_older_longer_one() {
    let options = FakeOptions { slots: 2, ..FakeOptions::default() };
    let ids = |length: usize| {
        (1..).map(|id| vec![id]).find(|ids| options.answer(ids).len() == length).unwrap()
    };
    let mut engine = options.engine(100);
    engine.admit(1, fake_prompt(ids(20)), 0).unwrap();
    engine.step();
    engine.admit(2, fake_prompt(ids(2)), 0).unwrap();
    let mut ended = Vec::new();
    while !engine.is_idle() {
        ended.extend(engine.step().into_iter().map(|finished| finished.ticket));
        // The slot of the short row is free at once.
        if ended == [2] && engine.free_slots() == 1 {
            engine.admit(3, fake_prompt(ids(3)), 0).unwrap();
        }
    }
    assert_eq!(ended, [2, 3, 1]);
}
