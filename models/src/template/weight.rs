//! The size of a value including everything nested in it.

use minijinja::{Error, ErrorKind, State, Value, value::ObjectRepr};

/// The number of bytes per unit of fuel, as in minijinja.
pub(super) const UNIT_BYTES: u64 = 64;
/// The number of values visited per unit of fuel; a visit takes up to 150 ns.
const UNIT_NODES: u64 = 4;
/// The maximum nesting of lists: dropping deeper ones overflows the stack. JSON that is read from
/// rows is limited to 128 levels.
pub(super) const DEPTH_MAX: u64 = 150;

/// The size of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// The bytes of all texts, each counted as often as it is reached.
    pub(super) bytes: u64,
    /// The number of values, each counted as often as it is reached.
    pub(super) nodes: u64,
    /// The nesting depth of lists.
    pub(super) depth: u64,
}

impl Weight {
    /// Measures a value. This takes fuel for every value in it.
    ///
    /// Fails if printing the value would take more than the remaining fuel.
    pub(super) fn measure(state: &State<'_, '_>, value: &Value) -> Result<Self, Error> {
        let fuel = remaining(state);
        let mut this = Self::default();
        this.add(value, 0, fuel)?;
        state.consume_fuel(this.nodes / UNIT_NODES)?;
        Ok(this)
    }

    fn add(&mut self, value: &Value, depth: u64, fuel: u64) -> Result<(), Error> {
        self.nodes += 1;
        self.depth = self.depth.max(depth);
        self.bytes = self.bytes.saturating_add(match value.as_str() {
            Some(text) => text.len() as u64,
            None => value.as_bytes().map_or(0, |bytes| bytes.len() as u64),
        });
        if depth > DEPTH_MAX {
            let problem = format!("lists are nested more than {DEPTH_MAX} levels; flatten them");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        if self.bytes > fuel.saturating_mul(UNIT_BYTES)
            || self.nodes > fuel.saturating_mul(UNIT_NODES)
        {
            return Err(ErrorKind::OutOfFuel.into());
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth > 0 && super::guards::is_stateful(object) {
            let problem = "a list or map cannot hold a namespace or loop; store its values";
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        match object.repr() {
            ObjectRepr::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.add(&key, depth + 1, fuel)?;
                    self.add(&value, depth + 1, fuel)?;
                }
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                for item in object.try_iter().into_iter().flatten() {
                    self.add(&item, depth + 1, fuel)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns the remaining fuel.
pub(super) fn remaining(state: &State<'_, '_>) -> u64 {
    state.fuel_levels().map_or(u64::MAX, |(_, remaining)| remaining)
}

/// Fails if the remaining fuel does not cover `bytes`.
pub(super) fn ensure(state: &State<'_, '_>, bytes: u64) -> Result<(), Error> {
    if bytes / UNIT_BYTES >= remaining(state) { Err(ErrorKind::OutOfFuel.into()) } else { Ok(()) }
}
