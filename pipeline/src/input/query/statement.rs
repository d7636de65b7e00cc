//! The SQL of a query, as text: what is refused, which columns it names, and what is added for Polars to
//! number the rows.

use std::{collections::HashSet, convert::Infallible, ops::ControlFlow};

use sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
        OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
        Statement as AnyStatement, TableFactor, Visit, Visitor, WildcardAdditionalOptions,
    },
    dialect::GenericDialect,
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use super::QueryError;
use crate::base::excerpt::excerpt;

/// The name of the table in a query.
pub(super) const TABLE: &str = "source";
/// The column that numbers the rows of a file, in queries.
pub(super) const ROW: &str = "legenda_row";

/// The maximum number of operators in a query: the parser and Polars recurse for each of a chain.
const OPERATORS_MAX: usize = 1000;

/// Refuses a query with more operators than fit on the stack. The parser reports invalid SQL.
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

fn shape(problem: &str) -> QueryError {
    QueryError::Shape { problem: problem.to_owned() }
}

/// A query that was read.
#[derive(Debug)]
pub(super) struct Statement {
    /// The query as Polars runs it: the number of the row is among what it selects.
    pub sql: String,
    /// Whether each row is kept and computed without a look at others, so that a file can be asked in chunks.
    pub is_row_wise: bool,
    /// The columns that it selects unchanged; none if it selects all.
    own: Option<Vec<String>>,
    /// The lower-case names that occur in it, if only they matter; none if it may use any column.
    named: Option<HashSet<String>>,
}

impl Statement {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// [`QueryError::Syntax`], and [`QueryError::Shape`] where its rows are not rows of the table.
    pub(super) fn parse(query: &str) -> Result<Self, QueryError> {
        check_operators(query)?;
        let first = query.split_whitespace().next().unwrap_or_default();
        if !["select", "with"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
            return Err(shape(&format!("it begins with `{first}`")));
        }
        let mut statements = Parser::parse_sql(&GenericDialect, query)
            .map_err(|error| QueryError::Syntax { source: error.into() })?;
        let [AnyStatement::Query(parsed)] = statements.as_mut_slice() else {
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
                "`{0}` makes one row of many: write `{0} OVER ()` for a value next to each row; compare with \
                 it by a nested query, such as `SELECT * FROM (SELECT *, avg(n) OVER () AS mean FROM source) \
                 AS t WHERE n > mean`; `legenda check` counts the rows that are kept",
                excerpt(&aggregates.found)
            )));
        }
        if select.having.is_some() {
            return Err(shape("`HAVING` chooses groups of rows: write `WHERE`"));
        }
        let scope = Scope::of(parsed);
        let named = scope.is_one_table().then(|| words(query));
        let SetExpr::Select(select) = parsed.body.as_mut() else {
            return Err(shape("it puts several queries together"));
        };
        let own = own_columns(select)?;
        Ok(Self { sql: parsed.to_string(), is_row_wise: scope.is_row_wise(), own, named })
    }

    /// Returns which of `columns` the query may use.
    pub(super) fn used<'a>(&self, columns: &'a [String]) -> Vec<&'a String> {
        let is_named = |column: &&String| {
            self.named.as_ref().is_none_or(|named| named.contains(&column.to_lowercase()))
        };
        columns.iter().filter(is_named).collect()
    }

    /// Returns whether `name` is one of `columns` that the query selects unchanged.
    pub(super) fn is_own(&self, name: &str, columns: &[String]) -> bool {
        let is_chosen = self.own.as_ref().is_none_or(|own| own.iter().any(|column| column == name));
        is_chosen && columns.iter().any(|column| column == name)
    }
}

/// Returns the words of a query, in lower case.
fn words(query: &str) -> HashSet<String> {
    let tokens = Tokenizer::new(&GenericDialect, query).tokenize().unwrap_or_default();
    let word = |token| match token {
        Token::Word(word) => Some(word.value.to_lowercase()),
        _ => None,
    };
    tokens.into_iter().filter_map(word).collect()
}

/// How much of the tables a query looks at.
#[derive(Debug, Default)]
struct Scope {
    n_queries: usize,
    n_tables: usize,
    /// Whether values or the order of several rows are compared.
    compares_rows: bool,
    /// Whether columns are chosen by something else than their names.
    chooses_columns: bool,
}

impl Scope {
    fn of(query: &Query) -> Self {
        let mut scope = Self::default();
        let ControlFlow::Continue(()) = query.visit(&mut scope);
        scope
    }

    /// Returns whether it reads the table alone, once, and names what it uses.
    fn is_one_table(&self) -> bool {
        self.n_queries == 1 && self.n_tables == 1 && !self.chooses_columns
    }

    fn is_row_wise(&self) -> bool {
        self.is_one_table() && !self.compares_rows
    }
}

impl Visitor for Scope {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        self.n_queries += 1;
        let by_number = |order: &OrderByKind| match order {
            OrderByKind::All(_) => true,
            OrderByKind::Expressions(by) => by.iter().any(|by| matches!(by.expr, Expr::Value(_))),
        };
        self.chooses_columns |= query.order_by.as_ref().is_some_and(|order| by_number(&order.kind));
        self.compares_rows |= query.order_by.is_some()
            || query.limit_clause.is_some()
            || query.fetch.is_some()
            || query.with.is_some();
        if let SetExpr::Select(select) = query.body.as_ref() {
            self.compares_rows |= select.qualify.is_some()
                || select.top.is_some()
                || !select.sort_by.is_empty()
                || !select.lateral_views.is_empty();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<Infallible> {
        self.n_tables += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        match expr {
            Expr::Function(function) => {
                let name = function.name.to_string();
                self.compares_rows |= function.over.is_some();
                self.chooses_columns |= name.eq_ignore_ascii_case("columns")
                    || takes_wildcard(function) && !name.eq_ignore_ascii_case("count");
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => self.chooses_columns = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Returns whether `*` is an argument of a function.
fn takes_wildcard(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.args.iter().any(|argument| {
        let (FunctionArg::Unnamed(value)
        | FunctionArg::Named { arg: value, .. }
        | FunctionArg::ExprNamed { arg: value, .. }) = argument;
        !matches!(value, FunctionArgExpr::Expr(_))
    })
}

/// The aggregate functions that Polars knows.
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

/// Finds the first aggregate function of a `SELECT`, except in nested queries.
#[derive(Default)]
struct Aggregates {
    /// The nesting depth of queries.
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

/// Finds a table function: `read_parquet` and similar functions read any file that this process can read.
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

/// Returns the columns that a `SELECT` takes unchanged from the table (`None`: all of them), and adds
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

/// Returns the name or alias of the table in the query, if the query reads it directly.
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
