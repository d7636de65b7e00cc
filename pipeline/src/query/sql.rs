//! Queries as Polars runs them: the only place that names it.

use std::{ops::ControlFlow, thread};

use polars::{
    prelude::{
        IdxCa, LazyFrame, ParquetWriter, PlRefPath, PolarsError, ScanArgsParquet, UnionArgs, col,
        concat,
    },
    sql::SQLContext,
};
use sqlparser::{
    ast::{
        Expr, GroupByExpr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
        SetExpr, Statement, TableFactor, Visit, Visitor, WildcardAdditionalOptions,
    },
    dialect::GenericDialect,
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};
use tempfile::NamedTempFile;

use super::{Answer, CheapColumns, Joined, QueryError};
use crate::excerpt::excerpt;

/// The name of the table in a query.
const TABLE: &str = "source";
/// The column that numbers the rows of a file, in queries.
const ROW: &str = "legenda_row";

/// The most operators of a query: what parses and runs it calls itself for each of those in a row.
const OPERATORS_MAX: usize = 1000;
/// The stack of the thread that does; only what is used of it takes memory.
const STACK_BYTES: usize = 512 << 20;

/// Asks `query` of the file at `path`, whose columns `cheap` it sees; the file has the columns `taken`.
///
/// # Errors
///
/// [`QueryError`].
pub(super) fn answer(
    query: &str,
    path: &str,
    cheap: &CheapColumns,
    taken: &[&str],
    joined: &[Joined],
) -> Result<Answer, QueryError> {
    check_operators(query)?;
    let failed = |problem: String| QueryError::Failed { path: path.to_owned(), problem };
    thread::scope(|threads| {
        let asked = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(threads, || answer_here(query, path, cheap, taken, joined))
            .map_err(|error| failed(format!("no thread can be started: {error}")))?;
        asked.join().unwrap_or_else(|_| Err(failed("Polars panicked on it".to_owned())))
    })
}

/// Refuses a query with more operators than fit on the stack. What is no SQL the parser refuses.
fn check_operators(query: &str) -> Result<(), QueryError> {
    let Ok(tokens) = Tokenizer::new(&GenericDialect, query).tokenize() else { return Ok(()) };
    let is_operator = |token: &&Token| match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::JOIN
                | Keyword::UNION
                | Keyword::WHEN
        ),
        Token::Number(..)
        | Token::Comma
        | Token::Period
        | Token::Whitespace(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_) => false,
        _ => true,
    };
    match tokens.iter().filter(is_operator).nth(OPERATORS_MAX) {
        None => Ok(()),
        Some(_) => Err(shape(&format!(
            "it has more than {OPERATORS_MAX} operators: write a list as `n IN (1, 2, 3)`, or put it into a \
             table of `source.tables`"
        ))),
    }
}

fn answer_here(
    query: &str,
    path: &str,
    cheap: &CheapColumns,
    taken: &[&str],
    joined: &[Joined],
) -> Result<Answer, QueryError> {
    let failed = |problem: String| QueryError::Failed { path: path.to_owned(), problem };
    let refused = |error: PolarsError| failed(error.to_string());
    let chosen = Chosen::read(query)?.map_err(failed)?;
    let mut context = SQLContext::new();
    context.register(TABLE, scan(cheap).map_err(refused)?.with_row_index(ROW, None));
    for table in joined {
        let files = table.files.iter().map(scan).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let all = concat(&files, UnionArgs::default()).map_err(refused)?;
        context.register(&table.name, all);
    }
    let mut kept = context.execute(&chosen.query).map_err(refused)?;
    let schema = kept.collect_schema().map_err(refused)?;
    let is_computed = |name: &&str| *name != ROW && !chosen.is_own(name, &cheap.names);
    let names = schema.iter_names().map(|name| name.as_str());
    let computed: Vec<String> = names.filter(is_computed).map(str::to_owned).collect();
    if let Some(column) = computed.iter().find(|name| taken.contains(&name.as_str())) {
        return Err(QueryError::Taken { column: column.clone() });
    }
    let columns = std::iter::once(ROW).chain(computed.iter().map(String::as_str)).map(col);
    let mut frame = kept
        .select(columns.collect::<Vec<_>>())
        .sort([ROW], Default::default())
        .collect()
        .map_err(refused)?;
    let numbers: &IdxCa = frame.column(ROW).and_then(|column| column.idx()).map_err(refused)?;
    // A join may give rows that are none of the table.
    let rows: Vec<u64> = numbers.iter().flatten().map(u64::from).collect();
    if rows.len() < numbers.len() {
        return Err(shape("it gives rows that are none of `source`"));
    }
    if rows.windows(2).any(|two| two[0] == two[1]) {
        return Err(shape("it gives a row more than once"));
    }
    let computed = if computed.is_empty() {
        None
    } else {
        let mut file = NamedTempFile::new().map_err(|error| failed(error.to_string()))?;
        ParquetWriter::new(&mut file).finish(&mut frame).map_err(refused)?;
        Some(file)
    };
    Ok(Answer { rows, computed })
}

fn scan(cheap: &CheapColumns) -> Result<LazyFrame, PolarsError> {
    let columns: Vec<_> = cheap.names.iter().map(|name| col(name.as_str())).collect();
    let path = PlRefPath::try_from_path(&cheap.path)?;
    // The path of one file, whatever characters are in its name.
    let arguments = ScanArgsParquet { glob: false, ..ScanArgsParquet::default() };
    Ok(LazyFrame::scan_parquet(path, arguments)?.select(columns))
}

fn shape(problem: &str) -> QueryError {
    QueryError::Shape { problem: problem.to_owned() }
}

/// What a query chooses.
struct Chosen {
    /// The query, with the number of the row among what it selects.
    query: String,
    /// The columns that are selected as they stand in the table; none where it is all of them.
    own: Option<Vec<String>>,
}

impl Chosen {
    /// Reads a query; the inner error is that of its syntax.
    fn read(query: &str) -> Result<Result<Self, String>, QueryError> {
        let first = query.split_whitespace().next().unwrap_or_default();
        if !["select", "with"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
            return Err(shape(&format!("it begins with `{first}`")));
        }
        let mut statements = match Parser::parse_sql(&GenericDialect, query) {
            Ok(statements) => statements,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let [Statement::Query(parsed)] = statements.as_mut_slice() else {
            return Err(shape("it is more than one"));
        };
        let mut functions = TableFunctions;
        if let ControlFlow::Break(found) = parsed.visit(&mut functions) {
            return Err(shape(&format!(
                "`{}` is a function in the place of a table: name further tables in `source.tables`",
                excerpt(&found)
            )));
        }
        let SetExpr::Select(select) = parsed.body.as_mut() else {
            return Err(shape("it puts several queries together"));
        };
        let is_grouped =
            !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        if select.distinct.is_some() || is_grouped {
            return Err(shape("`DISTINCT` and `GROUP BY` merge rows"));
        }
        let mut aggregates = Aggregates::default();
        let found = select.projection.visit(&mut aggregates).is_break()
            || select.having.visit(&mut aggregates).is_break()
            || parsed.order_by.visit(&mut aggregates).is_break();
        if found {
            return Err(shape(&format!(
                "`{0}` makes one row of many: for a value beside each row write `{0} OVER ()`, to \
                 compare with one write a query in brackets, such as `WHERE n > (SELECT avg(n) FROM \
                 source)`, and to count the rows that are kept run `legenda check`",
                excerpt(&aggregates.found)
            )));
        }
        if select.having.is_some() {
            return Err(shape("`HAVING` chooses groups of rows: write `WHERE`"));
        }
        let own = own_columns(select)?;
        Ok(Ok(Self { query: parsed.to_string(), own }))
    }

    fn is_own(&self, name: &str, columns: &[String]) -> bool {
        let is_chosen = self.own.as_ref().is_none_or(|own| own.iter().any(|column| column == name));
        is_chosen && columns.iter().any(|column| column == name)
    }
}

/// Functions that make one value of all rows, by the names that Polars knows.
const AGGREGATES: [&str; 29] = [
    "array_agg",
    "avg",
    "corr",
    "count",
    "covar",
    "covar_pop",
    "covar_samp",
    "first",
    "group_concat",
    "last",
    "listagg",
    "max",
    "mean",
    "median",
    "min",
    "quantile_cont",
    "quantile_disc",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "stdev",
    "stdev_samp",
    "string_agg",
    "sum",
    "total",
    "var",
    "var_pop",
    "var_samp",
    "variance",
];

/// Finds the first function of a `SELECT`, but not of queries within it, that makes one row of many.
#[derive(Default)]
struct Aggregates {
    /// How deep within further queries.
    depth: usize,
    found: String,
}

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        // Over a window every row keeps its place.
        if self.depth > 0 || function.over.is_some() || !AGGREGATES.contains(&name.as_str()) {
            return ControlFlow::Continue(());
        }
        self.found = expr.to_string();
        ControlFlow::Break(())
    }
}

/// Finds a function that stands where a table may stand: `read_parquet` and its kin read any file that this
/// program may read.
struct TableFunctions;

impl Visitor for TableFunctions {
    type Break = String;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table { args: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            factor => ControlFlow::Break(factor.to_string()),
        }
    }
}

/// Finds which columns a `SELECT` takes from the table as they stand there (none: all of them), and adds
/// the number of the row where it is not among them.
fn own_columns(select: &mut Select) -> Result<Option<Vec<String>>, QueryError> {
    let source = name_of_source(select).unwrap_or_else(|| Ident::new(TABLE));
    let is_source = |ident: &Ident| ident.value.eq_ignore_ascii_case(&source.value);
    let mut own = Some(Vec::new());
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(options) => {
                check_wildcard(options)?;
                own = None;
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                check_wildcard(options)?;
                if name.to_string().eq_ignore_ascii_case(&source.to_string()) {
                    own = None;
                }
            }
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => {
                own.iter_mut().for_each(|own| own.push(column.value.clone()));
            }
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => {
                if let [table, column] = path.as_slice()
                    && is_source(table)
                {
                    own.iter_mut().for_each(|own| own.push(column.value.clone()));
                }
            }
            _ => {}
        }
    }
    if own.is_some() {
        let number = match name_of_source(select) {
            Some(source) => Expr::CompoundIdentifier(vec![source, Ident::new(ROW)]),
            None => Expr::Identifier(Ident::new(ROW)),
        };
        select.projection.insert(0, SelectItem::UnnamedExpr(number));
    }
    Ok(own)
}

/// Returns what the query calls the table, where it reads it itself.
fn name_of_source(select: &Select) -> Option<Ident> {
    let tables = select.from.iter().flat_map(|from| {
        std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
    });
    tables.into_iter().find_map(|table| match table {
        TableFactor::Table { name, alias, .. }
            if name.to_string().trim_matches('"').eq_ignore_ascii_case(TABLE) =>
        {
            Some(alias.as_ref().map_or_else(|| Ident::new(TABLE), |alias| alias.name.clone()))
        }
        _ => None,
    })
}

fn check_wildcard(options: &WildcardAdditionalOptions) -> Result<(), QueryError> {
    if options.opt_replace.is_some() || options.opt_rename.is_some() {
        return Err(shape("`REPLACE` and `RENAME` change columns: compute new ones, by `AS`"));
    }
    if options.opt_exclude.is_some() || options.opt_except.is_some() || options.opt_ilike.is_some()
    {
        return Err(shape("a part of `*` is left out: name the columns"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, sync::Arc};

    use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::{Answer, QueryError, answer};
    use crate::query::CheapColumns;

    fn asked(path: &Path, query: &str) -> Result<Answer, QueryError> {
        let names = vec!["n".to_owned(), "lang".to_owned()];
        let cheap = CheapColumns { path: path.to_owned(), names, _copy: None, damaged: Vec::new() };
        answer(query, "t.parquet", &cheap, &["n", "lang", "image"], &[])
    }

    #[test]
    fn a_file_with_the_characters_of_patterns_is_asked_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t[1].parquet", "t1.parquet", "t*.parquet"] {
            table(&dir.path().join(name));
        }
        let odd = dir.path().join("t*.parquet");
        let kept = asked(&odd, "SELECT * FROM source WHERE lang = 'fr'").unwrap();
        assert_eq!(kept.rows, [3]);
        assert!(asked(&dir.path().join("t[1].parquet"), "SELECT * FROM source").is_ok());
    }

    fn table(path: &Path) {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
        let lang: ArrayRef = Arc::new(StringArray::from(vec!["en", "de", "en", "fr", "en", "de"]));
        let image: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]; 6]));
        let batch =
            RecordBatch::try_from_iter([("n", n), ("lang", lang), ("image", image)]).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn a_query_chooses_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        table(&path);
        let kept = |query: &str| asked(&path, query).map(|answer| answer.rows);
        assert_eq!(kept("SELECT * FROM source WHERE lang = 'en'").unwrap(), [0, 2, 4]);
        assert_eq!(kept("select n from source where n > 2 and lang <> 'fr'").unwrap(), [4, 5]);
        assert_eq!(kept("SELECT n FROM source ORDER BY n DESC LIMIT 2").unwrap(), [4, 5]);
        assert!(kept("SELECT * FROM source WHERE n > 99").unwrap().is_empty());
        // What a refusal says to write.
        assert_eq!(kept("SELECT n, count(*) OVER () AS n_rows FROM source").unwrap().len(), 6);
        assert_eq!(kept("SELECT n, max(n) OVER () AS top FROM source").unwrap().len(), 6);
    }

    #[test]
    fn queries_that_cannot_choose_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        table(&path);
        let refused = |query: &str| asked(&path, query).err().unwrap();
        assert!(matches!(refused("DELETE FROM source"), QueryError::Shape { .. }));
        assert!(matches!(refused("SELECT DISTINCT lang FROM source"), QueryError::Shape { .. }));
        assert!(matches!(refused("SELECT n + 1 AS lang FROM source"), QueryError::Taken { .. }));
        assert!(matches!(refused("SELECT n AS image FROM source"), QueryError::Taken { .. }));
        for (query, named) in [
            ("SELECT count(*) FROM source", "`count(*)`"),
            ("SELECT COUNT(1) AS n_rows FROM source", "`COUNT(1)`"),
            ("SELECT n, max(n) + 1 AS top FROM source", "`max(n)`"),
            ("SELECT *, round(avg(n), 2) AS mean FROM source", "`avg(n)`"),
            ("SELECT n FROM source ORDER BY sum(n)", "`sum(n)`"),
            ("SELECT n FROM source HAVING n > 1", "`WHERE`"),
            ("SELECT lang FROM source GROUP BY lang", "`GROUP BY`"),
            ("SELECT lang, count(*) AS n_rows FROM source GROUP BY lang", "`GROUP BY`"),
        ] {
            let refused = refused(query);
            assert!(matches!(refused, QueryError::Shape { .. }), "{query}: {refused}");
            assert!(refused.to_string().contains(named), "{query}: {refused}");
        }
        for query in [
            "SELECT * FROM read_parquet('/etc/t.parquet')",
            "SELECT * FROM Read_CSV('/etc/passwd') AS source",
            "SELECT * FROM source WHERE n IN (SELECT n FROM read_ipc('t.arrow'))",
            "WITH t AS (SELECT * FROM read_json('t.json')) SELECT * FROM source JOIN t ON t.n = source.n",
            "SELECT * FROM source, LATERAL read_parquet('t')",
            "SELECT * FROM TABLE(read_parquet('t'))",
            "SELECT * FROM (source JOIN read_parquet('t') AS t ON t.n = source.n)",
        ] {
            let refused = refused(query).to_string();
            assert!(refused.to_lowercase().contains("read_"), "{query}: {refused}");
            assert!(refused.contains("`source.tables`"), "{query}: {refused}");
        }
        for (query, n_most) in [
            ("1 + ", 900),
            ("1 - n * ", 400),
            ("n = 1 OR ", 400),
            ("NOT n = 1 AND ", 300),
            ("n BETWEEN 1 AND 2 AND ", 300),
            ("n IN (1, 2, 3) OR ", 200),
        ] {
            let chain = |n: usize| format!("SELECT * FROM source WHERE {}n = 1", query.repeat(n));
            assert!(
                !matches!(asked(&path, &chain(n_most)), Err(QueryError::Shape { .. })),
                "{query}"
            );
            for n in [2000, 30_000] {
                assert!(refused(&chain(n)).to_string().contains("operators"), "{query} {n}");
            }
        }
        let ids: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
        let listed = format!("SELECT * FROM source WHERE n IN ({})", ids.join(", "));
        assert_eq!(asked(&path, &listed).unwrap().rows.len(), 6);
        let replaced = "SELECT * REPLACE (n + 1 AS n) FROM source";
        assert!(matches!(refused(replaced), QueryError::Shape { .. }));
        let doubled = "SELECT source.n FROM source JOIN source AS t ON source.lang = t.lang";
        assert!(matches!(refused(doubled), QueryError::Shape { .. }));
        assert!(matches!(refused("SELECT image FROM source"), QueryError::Failed { .. }));
        assert!(matches!(refused("SELECT n FROM other"), QueryError::Failed { .. }));
    }
}
