//! Unification of files with declared types, without changing any value.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::{table_file::TableFile, widen::wider};

/// A column of several files.
struct Column {
    field: Field,
    /// Whether the types have no common type, so that each file keeps its own.
    differs: bool,
    n_files: usize,
}

/// Gives every file with declared types the columns of all files and the `known` ones: missing columns are
/// null, and different types are widened to one that represents the values of both. Types without a common
/// type stay unchanged, and only a job that needs them equal is refused.
pub(super) fn unify_declared(files: &mut [TableFile], known: &mut Fields) {
    let mut declared: Vec<&mut TableFile> =
        files.iter_mut().filter(|file| file.contents.declares_types()).collect();
    if declared.is_empty() {
        return;
    }
    let schemas: Vec<SchemaRef> = declared.iter().map(|file| file.own_schema()).collect();
    let columns = common_columns(&declared, &schemas, known);
    *known = columns.iter().map(|column| column.field.clone()).collect();
    for (file, own) in declared.iter_mut().zip(&schemas) {
        let fields = columns.iter().filter(|column| !file.partitions.names(column.field.name()));
        let fields = fields.map(|column| {
            let own = own.field_with_name(column.field.name());
            own.ok().filter(|_| column.differs).unwrap_or(&column.field).clone()
        });
        let fields: Vec<Field> = fields.collect();
        file.set_own_schema(&Arc::new(Schema::new_with_metadata(fields, own.metadata().clone())));
    }
}

fn common_columns(files: &[&mut TableFile], schemas: &[SchemaRef], known: &Fields) -> Vec<Column> {
    // 64-bit integer columns with values that a float would round.
    let mut rounded: HashSet<&str> = HashSet::new();
    for (file, own) in files.iter().zip(schemas) {
        let large = own.fields().iter().filter(|field| {
            matches!(field.data_type(), DataType::Int64 | DataType::UInt64)
                && !file.contents.has_small_integers(field.name())
        });
        rounded.extend(large.map(|field| field.name().as_str()));
    }
    let mut columns: Vec<Column> = Vec::new();
    for field in schemas.iter().flat_map(|own| own.fields()) {
        match columns.iter_mut().find(|column| column.field.name() == field.name()) {
            Some(column) => column.add(field, !rounded.contains(field.name().as_str())),
            None => {
                columns.push(Column { field: field.as_ref().clone(), differs: false, n_files: 1 });
            }
        }
    }
    for column in &mut columns {
        if column.n_files < files.len() {
            column.field.set_nullable(true);
        }
    }
    // In the order of previously read files.
    let mut ordered = Vec::with_capacity(columns.len());
    for field in known {
        let place = columns.iter().position(|column| column.field.name() == field.name());
        let found = place.map(|place| columns.remove(place));
        ordered.push(match found {
            Some(column) => column.or_known(field, !rounded.contains(field.name().as_str())),
            None => {
                let field = field.as_ref().clone().with_nullable(true);
                Column { field, differs: false, n_files: 0 }
            }
        });
    }
    ordered.extend(columns);
    ordered
}

impl Column {
    /// Widens the column to its known type, if there is a common one.
    fn or_known(mut self, known: &Field, ints_fit_floats: bool) -> Self {
        let both = wider(known.data_type(), self.field.data_type(), ints_fit_floats);
        if let Some(both) = both.filter(|_| !self.differs) {
            let is_nullable = self.field.is_nullable() || known.is_nullable();
            self.field = self.field.with_data_type(both).with_nullable(is_nullable);
        }
        self
    }

    fn add(&mut self, field: &Field, ints_fit_floats: bool) {
        self.n_files += 1;
        let is_nullable = self.field.is_nullable() || field.is_nullable();
        self.field.set_nullable(is_nullable);
        if self.differs || self.field.data_type() == field.data_type() {
            return;
        }
        match wider(self.field.data_type(), field.data_type(), ints_fit_floats) {
            // A value that does not fit after all rejects its row.
            Some(wider) => {
                let both = Field::new(self.field.name(), wider, true);
                let is_same = self.field.metadata() == field.metadata();
                let metadata = if is_same { field.metadata().clone() } else { HashMap::default() };
                self.field = both.with_metadata(metadata);
            }
            None => self.differs = true,
        }
    }
}

/// Gives a file that is opened late the columns of `others`, if their types represent its values.
pub(super) fn adopt_declared(file: &mut TableFile, others: &[TableFile]) {
    if !file.contents.declares_types() {
        return;
    }
    let Some(other) = others.iter().find(|other| other.contents.declares_types()) else { return };
    let (own, known) = (file.own_schema(), other.own_schema());
    let columns = known.fields().iter().filter(|field| !file.partitions.names(field.name()));
    let columns = columns.map(|field| match own.field_with_name(field.name()) {
        Ok(own) => {
            let ints_fit_floats = file.contents.has_small_integers(field.name());
            let wider = wider(field.data_type(), own.data_type(), ints_fit_floats);
            if wider.as_ref() == Some(field.data_type()) {
                field.as_ref().clone().with_nullable(field.is_nullable() || own.is_nullable())
            } else {
                own.clone()
            }
        }
        Err(_) => field.as_ref().clone().with_nullable(true),
    });
    let columns: Vec<Field> = columns.collect();
    file.set_own_schema(&Arc::new(Schema::new_with_metadata(columns, own.metadata().clone())));
}
