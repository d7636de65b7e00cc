//! How much a value holds when all lists and maps in it are written out.

use minijinja::{Error, ErrorKind, State, Value, value::ObjectRepr};

/// The bytes that one unit of fuel stands for, as in minijinja.
pub(super) const UNIT_BYTES: u64 = 64;
/// The values that may be looked at for one unit of fuel: a look takes up to 150 ns.
const UNIT_NODES: u64 = 4;
/// Lists within lists, at most: what lies deeper overflows the stack when it is dropped. JSON that is
/// read from rows ends at 128.
pub(super) const DEPTH_MAX: u64 = 150;

/// The size of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// The bytes of texts, each as often as it is reached.
    pub(super) bytes: u64,
    /// The values, each as often as it is reached.
    pub(super) nodes: u64,
    /// How deep lists lie in lists.
    pub(super) depth: u64,
}

impl Weight {
    /// Weighs a value, which takes fuel for every value in it.
    ///
    /// Fails where it weighs more than the fuel that is left could write.
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
            let problem = format!("lists lie more than {DEPTH_MAX} deep in lists; make them flat");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        if self.bytes > fuel.saturating_mul(UNIT_BYTES)
            || self.nodes > fuel.saturating_mul(UNIT_NODES)
        {
            return Err(ErrorKind::OutOfFuel.into());
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth > 0 && super::guards::is_stateful(object) {
            let problem = "a list or map cannot hold a namespace or loop; keep its values";
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

/// Returns the fuel that is left.
pub(super) fn remaining(state: &State<'_, '_>) -> u64 {
    state.fuel_levels().map_or(u64::MAX, |(_, remaining)| remaining)
}

/// Fails where the fuel that is left cannot pay for `bytes`.
pub(super) fn ensure(state: &State<'_, '_>, bytes: u64) -> Result<(), Error> {
    if bytes / UNIT_BYTES >= remaining(state) { Err(ErrorKind::OutOfFuel.into()) } else { Ok(()) }
}
