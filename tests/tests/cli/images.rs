//! Images decode to the pixels that Pillow produces; an error names each unsupported format.
//!
//! `tests/references/images.parquet` was made by `tests/references/make_images.py` with Pillow.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray},
    datatypes::Int64Type,
};
use legenda_pipeline::media::image::PendingImage;
use legenda_tests::{IMAGE_JOB, Workplace, read_table, repository, text_column, write_table};

const PIXELS_MAX: u64 = 1 << 24;

#[test]
fn images_have_the_pixels_that_pillow_decodes() {
    let mut unlike = Vec::new();
    let mut n_images = 0;
    for batch in read_table(&repository().join("tests/references/images.parquet")) {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let number = |name: &str, row| {
            usize::try_from(column(name).as_primitive::<Int64Type>().value(row)).unwrap()
        };
        for row in 0..batch.num_rows() {
            n_images += 1;
            let id = column("id").as_string::<i32>().value(row);
            let bytes = column("image").as_binary::<i32>().value(row);
            let expected = column("rgb").as_binary::<i32>().value(row);
            match PendingImage::open(bytes, PIXELS_MAX).and_then(PendingImage::decode) {
                // libheif is optional.
                Err(error) if error.to_string().contains("without libheif installed") => {}
                Err(error) => unlike.push(format!("{id}: {error}")),
                Ok(image) => {
                    let size = (number("width", row), number("height", row));
                    let off =
                        image.pixels.iter().zip(expected).map(|(is, should)| is.abs_diff(*should));
                    let most = usize::from(off.max().unwrap());
                    if (image.width, image.height) != size {
                        unlike.push(format!(
                            "{id}: {} x {}, not {size:?}",
                            image.width, image.height
                        ));
                    } else if most > number("tolerance", row) {
                        unlike.push(format!("{id}: a level is off by {most}"));
                    }
                }
            }
        }
    }
    assert!(n_images > 200);
    assert!(unlike.is_empty(), "{} of {n_images}: {unlike:#?}", unlike.len());
}

#[test]
fn rows_of_unsupported_formats_are_rejected_by_name() {
    let cells: [(&[u8], &str); 6] = [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported"),
        (b"<!DOCTYPE html><html>404", "HTML is not supported"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\0\xe8L", "gzip is not supported"),
        (b"%PDF-1.7\n", "PDF is not supported"),
    ];
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| row.to_string()));
    let images = BinaryArray::from_iter_values(cells.iter().map(|(bytes, _)| bytes));
    let columns = [("id", Arc::new(ids) as ArrayRef), ("image", Arc::new(images) as ArrayRef)];
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 4);
    place.write("job.toml", IMAGE_JOB);
    drop(place.run(&["run", "job.toml"]).expect(0));
    let rejects = place.rejects("out");
    let [codes, messages] =
        ["legenda_code", "legenda_message"].map(|name| text_column(&rejects, name));
    assert_eq!(codes, vec![Some("media_unsupported".to_owned()); cells.len()]);
    for (message, (_, words)) in messages.iter().zip(cells) {
        let message = message.as_deref().unwrap();
        assert!(message.contains(words), "{message}");
    }
}
