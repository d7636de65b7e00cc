//! CMYK to RGB conversion.

/// Converts CMYK to RGB (`cmyk2rgb` of Pillow's `Convert.c`).
pub(super) fn to_rgb([cyan, magenta, yellow, key]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - key);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * light + 128;
        u8::try_from(light.saturating_sub((product / 256 + product) / 256)).unwrap_or_default()
    })
}
