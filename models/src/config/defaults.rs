//! Values of keys that are left out.

pub(super) fn yes() -> bool {
    true
}
