//! Inserts guard calls into the instructions of a compiled template.
//!
//! minijinja has no hooks for operators, but its `machinery` module exposes the instructions and
//! can run modified ones. Two instructions are inserted before an instruction with guarded
//! operands: a call of the guard, which takes the operands and returns them as a list, and one that
//! unpacks the list. After an instruction that makes a list, a call of [`Guard::Solid`]
//! materializes it. Jump targets are adjusted.

use minijinja::{
    Error, ErrorKind,
    machinery::{Instruction, Instructions},
};

use super::guards::{self, Guard};

/// Returns the instructions with their guards.
pub(super) fn guarded<'source>(
    plain: &Instructions<'source>,
) -> Result<Instructions<'source>, Error> {
    let count = (0..).take_while(|idx| plain.get(*idx).is_some()).count();
    let mut starts = Vec::with_capacity(count + 1);
    let mut additions = Vec::with_capacity(count);
    let mut next = 0;
    for instruction in (0..).map_while(|idx| plain.get(idx)) {
        starts.push(next);
        let before = before(instruction)?;
        let makes_value = makes_value(instruction);
        // A guard with one operand returns it directly, without unpacking.
        let before_len = before.map_or(0, |(_, operands)| if operands == 1 { 1 } else { 2 });
        next += before_len + 1 + u32::from(makes_value);
        additions.push((before, makes_value));
    }
    starts.push(next);
    let mut guarded = Instructions::new(plain.name(), plain.source());
    for (idx, (before, makes_value)) in (0..).zip(additions) {
        let Some(instruction) = plain.get(idx) else { break };
        let line = plain.get_line(idx).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        if let Some((guard, operands)) = before {
            guarded.add_with_line(Instruction::CallFunction(guard.name(), Some(operands)), line);
            if operands > 1 {
                guarded.add_with_line(Instruction::UnpackList(operands.into()), line);
            }
        }
        guarded.add_with_line(moved(instruction, &starts), line);
        if makes_value {
            let solid = Instruction::CallFunction(Guard::Solid.name(), Some(1));
            guarded.add_with_line(solid, line);
        }
    }
    Ok(guarded)
}

/// Returns the guard of an instruction and the number of its operands.
fn before(instruction: &Instruction<'_>) -> Result<Option<(Guard, u16)>, Error> {
    let call = |guard: Option<Guard>, operands: Option<u16>| match (guard, operands) {
        (_, None) => Err(unbounded("unpacks arguments (`*list`); pass them one by one")),
        (Some(guard), Some(operands)) if operands > 0 => Ok(Some((guard, operands))),
        _ => Ok(None),
    };
    match instruction {
        Instruction::StringConcat => Ok(Some((Guard::Show, 2))),
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte => Ok(Some((Guard::Compare, 2))),
        // It may implement `in` as well.
        Instruction::In | Instruction::CompareAndPreserve(_) => Ok(Some((Guard::Search, 2))),
        Instruction::SetAttr(_) => Ok(Some((Guard::Keep, 2))),
        Instruction::ApplyFilter(name, operands, _) => call(guards::for_filter(name), *operands),
        Instruction::CallMethod(name, operands) => call(guards::for_filter(name), *operands),
        Instruction::PerformTest(name, operands, _) => call(guards::for_test(name), *operands),
        Instruction::CallFunction(name, operands) => call(guards::for_function(name), *operands),
        Instruction::CallObject(operands) => call(None, *operands),
        Instruction::Include(_) | Instruction::LoadBlocks | Instruction::ExportLocals => {
            Err(unbounded("uses another template; merge them into one"))
        }
        _ => Ok(None),
    }
}

/// Returns whether an instruction produces a new value, which may be a list or map.
fn makes_value(instruction: &Instruction<'_>) -> bool {
    match instruction {
        Instruction::LoadConst(value) => value.as_object().is_some(),
        Instruction::Add
        | Instruction::Mul
        | Instruction::Slice
        | Instruction::BuildList(_)
        | Instruction::BuildMap(_)
        | Instruction::BuildTuple(_)
        | Instruction::ApplyFilter(..)
        | Instruction::CallMethod(..)
        | Instruction::CallFunction(..)
        | Instruction::CallObject(_) => true,
        _ => false,
    }
}

/// Returns an instruction with an adjusted jump target.
fn moved<'source>(instruction: &Instruction<'source>, starts: &[u32]) -> Instruction<'source> {
    let at = |target: u32| starts.get(target as usize).copied().unwrap_or(target);
    match instruction {
        Instruction::Iterate(target) => Instruction::Iterate(at(*target)),
        Instruction::Jump(target) => Instruction::Jump(at(*target)),
        Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(at(*target)),
        Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(at(*target)),
        Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(at(*target)),
        Instruction::BuildMacro(name, offset, flags) => {
            Instruction::BuildMacro(name, at(*offset), *flags)
        }
        other => other.clone(),
    }
}

fn unbounded(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template {problem}"))
}
