//! Columns of random types.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array,
        Decimal128Array, Decimal256Array, DictionaryArray, DurationMillisecondArray,
        FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array,
        Int8Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, LargeBinaryArray,
        LargeListArray, LargeStringArray, ListArray, MapArray, NullArray, RunArray, StringArray,
        StringViewArray, StructArray, Time32SecondArray, Time64NanosecondArray,
        TimestampMicrosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array, new_null_array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Fields, Int32Type, IntervalMonthDayNano, i256},
};
use legenda_tests::mutate::Random;

/// Returns one of `from`.
pub(crate) fn one<'a, T: ?Sized>(random: &mut Random, from: &[&'a T]) -> &'a T {
    from[random.below(from.len())]
}

/// Returns a column of `n` rows of a random type; lists and structs nest at most `depth` deep.
pub(crate) fn any_column(n: usize, depth: usize, random: &mut Random) -> ArrayRef {
    let seed = random.number();
    let mut own = Random(seed);
    let mut number = || match own.below(6) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => 0,
        3 => -1,
        4 => own.number().cast_signed(),
        _ => own.number().cast_signed() >> 40,
    };
    let numbers: Vec<Option<i64>> =
        (0..n).map(|row| Some(number()).filter(|_| (seed >> (row % 60)) & 3 != 0)).collect();
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let ints = || numbers.iter().map(|number| number.map(|number| number as i32));
    let text = |number: i64| match number % 5 {
        0 => String::new(),
        1 => "../../x".to_owned(),
        2 => "https://127.0.0.1/a.png".to_owned(),
        _ => format!("\u{202e}ä{number}\0"),
    };
    let words: Vec<Option<String>> = numbers.iter().map(|number| number.map(text)).collect();
    let bytes = || words.iter().map(|word| word.as_ref().map(String::as_bytes));
    let nulls = || NullBuffer::from_iter(numbers.iter().map(Option::is_some));
    let wide = |of: fn(i64) -> f64| numbers.iter().map(move |number| number.map(of));
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    let floats = || wide(|number| if number == 0 { f64::NAN } else { number as f64 });
    // Each list has zero to three items.
    let lengths: Vec<usize> = (0..n).map(|_| random.below(4)).collect();
    let n_items = lengths.iter().sum();
    let field =
        |name: &str, of: &ArrayRef| Arc::new(Field::new(name, of.data_type().clone(), true));
    match random.below(if depth == 0 { 30 } else { 37 }) {
        0 => Arc::new(NullArray::new(n)),
        1 => Arc::new(numbers.iter().map(|n| n.map(|n| n > 0)).collect::<BooleanArray>()),
        2 => Arc::new(
            ints().map(|n| n.map(|n| n.to_le_bytes()[0].cast_signed())).collect::<Int8Array>(),
        ),
        3 => Arc::new(
            ints().map(|n| n.and_then(|n| i16::try_from(n % 9999).ok())).collect::<Int16Array>(),
        ),
        4 => Arc::new(ints().collect::<Int32Array>()),
        5 => Arc::new(numbers.iter().copied().collect::<Int64Array>()),
        6 => Arc::new(ints().map(|n| n.map(|n| n.to_le_bytes()[0])).collect::<UInt8Array>()),
        7 => {
            Arc::new(ints().map(|n| n.and_then(|n| u16::try_from(n).ok())).collect::<UInt16Array>())
        }
        8 => Arc::new(ints().map(|n| n.map(i32::cast_unsigned)).collect::<UInt32Array>()),
        9 => Arc::new(numbers.iter().map(|n| n.map(i64::cast_unsigned)).collect::<UInt64Array>()),
        10 => Arc::new(Float16Array::from_iter(floats().map(|n| n.map(half::f16::from_f64)))),
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        11 => Arc::new(floats().map(|n| n.map(|n| n as f32)).collect::<Float32Array>()),
        12 => Arc::new(floats().collect::<Float64Array>()),
        13 => Arc::new(StringArray::from_iter(words.iter().map(Option::as_deref))),
        14 => Arc::new(LargeStringArray::from_iter(words.iter().map(Option::as_deref))),
        15 => Arc::new(StringViewArray::from_iter(words.iter().map(Option::as_deref))),
        16 => Arc::new(BinaryArray::from_iter(bytes())),
        17 => Arc::new(LargeBinaryArray::from_iter(bytes())),
        18 => Arc::new(BinaryViewArray::from_iter(bytes())),
        19 => {
            let of = numbers.iter().map(|n| n.map(|n| n.to_le_bytes()));
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(of, 8).unwrap())
        }
        20 => Arc::new(ints().collect::<Date32Array>()),
        21 => Arc::new(numbers.iter().copied().collect::<Date64Array>()),
        22 => Arc::new(ints().collect::<Time32SecondArray>()),
        23 => Arc::new(numbers.iter().copied().collect::<Time64NanosecondArray>()),
        24 => {
            let zone = one(random, &["UTC", "+14:00", "Europe/Berlin", "nowhere", ""]);
            let stamps: TimestampSecondArray = numbers.iter().copied().collect();
            Arc::new(stamps.with_timezone(zone))
        }
        25 => Arc::new(numbers.iter().copied().collect::<TimestampMicrosecondArray>()),
        26 => Arc::new(numbers.iter().copied().collect::<DurationMillisecondArray>()),
        27 => {
            let of =
                numbers.iter().map(|n| n.map(|n| IntervalMonthDayNano::new(i32::MIN, i32::MAX, n)));
            Arc::new(of.collect::<IntervalMonthDayNanoArray>())
        }
        28 => {
            let of: Decimal128Array = numbers.iter().map(|n| n.map(i128::from)).collect();
            Arc::new(
                of.with_precision_and_scale(38, one(random, &[&-3_i8, &0, &38]).to_owned())
                    .unwrap(),
            )
        }
        29 => {
            let of: Decimal256Array = numbers.iter().map(|n| n.map(i256::from)).collect();
            Arc::new(of.with_precision_and_scale(76, 5).unwrap())
        }
        30 => {
            let items = any_column(n_items, depth - 1, random);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(field("item", &items), offsets, items, Some(nulls())))
        }
        31 => {
            let items = any_column(n_items, depth - 1, random);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(LargeListArray::new(field("item", &items), offsets, items, Some(nulls())))
        }
        32 => {
            let items = any_column(n * 2, depth - 1, random);
            Arc::new(FixedSizeListArray::new(field("item", &items), 2, items, Some(nulls())))
        }
        33 => {
            let names = one(random, &[&["bytes", "path"], &["path", "bytes"], &["a", ""]]);
            let columns: Vec<ArrayRef> =
                names.iter().map(|_| any_column(n, depth - 1, random)).collect();
            let fields: Fields =
                names.iter().zip(&columns).map(|(name, of)| field(name, of)).collect();
            Arc::new(StructArray::new(fields, columns, Some(nulls())))
        }
        34 => {
            let keys = StringArray::from_iter_values((0..n_items).map(|item| format!("k{item}")));
            let columns = vec![Arc::new(keys) as ArrayRef, any_column(n_items, depth - 1, random)];
            let fields: Fields = vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", columns[1].data_type().clone(), true),
            ]
            .into();
            let entries = StructArray::new(fields.clone(), columns, None);
            let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::new(entry, offsets, entries, Some(nulls()), false))
        }
        35 => {
            let values = any_column(3, 0, random);
            let at =
                |number: Option<i64>| number.map(|number| i32::from(number.to_le_bytes()[0] % 3));
            let keys: Int32Array = numbers.iter().map(|number| at(*number)).collect();
            let dictionary = DictionaryArray::<Int32Type>::try_new(keys, values);
            dictionary
                .map_or_else(|_| new_null_array(&DataType::Int32, n), |of| Arc::new(of) as ArrayRef)
        }
        _ if n == 0 => new_null_array(&DataType::Int32, 0),
        _ => {
            let ends: Int32Array = (1..).take(n).map(Some).collect();
            let values = any_column(n, 0, random);
            let runs = RunArray::<Int32Type>::try_new(&ends, values.as_ref());
            runs.map_or_else(|_| new_null_array(&DataType::Int32, n), |of| Arc::new(of) as ArrayRef)
        }
    }
}
