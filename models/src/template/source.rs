//! What is checked of a template's source before it is compiled: compiling takes no fuel.
//!
//! - minijinja's parser and compiler call themselves for each operator of `1 + 1 + 1 ...`, and a few hundred
//!   thousand of them overflow the stack, which ends the process;
//! - the compiler computes constants. It limits texts to 1024 bytes, but takes a multiplied list for small:
//!   `"" ~ ["x"] * 100000000` would be a text of 500 MB before anything is rendered.

use minijinja::{
    Error, ErrorKind,
    machinery::{
        Token,
        ast::{BinOpKind, Call, CallArg, Expr, Macro, Stmt},
        parse, tokenize,
    },
    syntax::SyntaxConfig,
};

/// The longest source, in bytes. The chat templates of the Hub are 1 to 20 KB.
const BYTES_MAX: usize = 1 << 20;
/// The most words and signs within one `{{ }}` or `{% %}`.
const TAG_TOKENS_MAX: usize = 1000;
/// The most `elif` of a template, which lie within each other for the parser.
const ELIFS_MAX: usize = 500;

/// Fails where a template is too long or too nested, or multiplies a constant list.
pub(super) fn check(source: &str, name: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    if source.len() > BYTES_MAX {
        let len = source.len();
        return Err(refused(format!(
            "it has {len} bytes, at most {BYTES_MAX} are read; shorten it"
        )));
    }
    let (mut tag_tokens, mut elifs, mut is_first) = (0, 0, false);
    for token in tokenize(source, false, syntax.clone()) {
        match token?.0 {
            Token::TemplateData(_) | Token::VariableEnd | Token::BlockEnd => tag_tokens = 0,
            Token::Ident("elif") if is_first => elifs += 1,
            _ => tag_tokens += 1,
        }
        is_first = tag_tokens == 1;
        if tag_tokens > TAG_TOKENS_MAX {
            let problem = format!("a tag has more than {TAG_TOKENS_MAX} words and signs; split it");
            return Err(refused(problem));
        }
        if elifs > ELIFS_MAX {
            return Err(refused(format!("it has more than {ELIFS_MAX} `elif`; use a map")));
        }
    }
    statements(&[parse(source, name, syntax)?])
}

fn refused(problem: String) -> Error {
    Error::new(ErrorKind::SyntaxError, problem)
}

fn statements(all: &[Stmt<'_>]) -> Result<(), Error> {
    all.iter().try_for_each(statement)
}

fn statement(statement: &Stmt<'_>) -> Result<(), Error> {
    match statement {
        Stmt::Template(it) => statements(&it.children),
        Stmt::EmitExpr(it) => expression(&it.expr),
        Stmt::ForLoop(it) => {
            expression(&it.iter)?;
            expressions(it.filter_expr.as_ref())?;
            statements(&it.body)?;
            statements(&it.else_body)
        }
        Stmt::IfCond(it) => {
            expression(&it.expr)?;
            statements(&it.true_body)?;
            statements(&it.false_body)
        }
        Stmt::WithBlock(it) => {
            expressions(it.assignments.iter().map(|(_, value)| value))?;
            statements(&it.body)
        }
        Stmt::Set(it) => expressions([&it.target, &it.expr]),
        Stmt::SetBlock(it) => {
            expressions(it.filter.as_ref())?;
            statements(&it.body)
        }
        Stmt::AutoEscape(it) => {
            expression(&it.enabled)?;
            statements(&it.body)
        }
        Stmt::FilterBlock(it) => {
            expression(&it.filter)?;
            statements(&it.body)
        }
        Stmt::Block(it) => statements(&it.body),
        Stmt::Import(it) => expression(&it.expr),
        Stmt::FromImport(it) => expression(&it.expr),
        Stmt::Extends(it) => expression(&it.name),
        Stmt::Include(it) => expression(&it.name),
        Stmt::Macro(it) => declaration(it),
        Stmt::CallBlock(it) => {
            call(&it.call)?;
            declaration(&it.macro_decl)
        }
        Stmt::Do(it) => call(&it.call),
        _ => Ok(()),
    }
}

fn declaration(it: &Macro<'_>) -> Result<(), Error> {
    expressions(&it.defaults)?;
    statements(&it.body)
}

fn call(it: &Call<'_>) -> Result<(), Error> {
    expression(&it.expr)?;
    arguments(&it.args)
}

fn arguments(all: &[CallArg<'_>]) -> Result<(), Error> {
    expressions(all.iter().map(|argument| match argument {
        CallArg::Pos(it)
        | CallArg::Kwarg(_, it)
        | CallArg::PosSplat(it)
        | CallArg::KwargSplat(it) => it,
    }))
}

fn expressions<'a, 's: 'a>(all: impl IntoIterator<Item = &'a Expr<'s>>) -> Result<(), Error> {
    all.into_iter().try_for_each(expression)
}

/// Checks what is within an expression before the expression, so that no constant is computed here that
/// is not checked.
fn expression(expr: &Expr<'_>) -> Result<(), Error> {
    match expr {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::Slice(it) => {
            expression(&it.expr)?;
            expressions([&it.start, &it.stop, &it.step].into_iter().flatten())
        }
        Expr::UnaryOp(it) => expression(&it.expr),
        Expr::BinOp(it) => {
            expressions([&it.left, &it.right])?;
            let is_list = |side: &Expr<'_>| {
                // Other constants are small: the compiler sees to it.
                side.as_const().is_some_and(|value| value.as_object().is_some())
            };
            if matches!(it.op, BinOpKind::Mul) && (is_list(&it.left) || is_list(&it.right)) {
                let problem = "it multiplies a constant list; write a loop";
                return Err(refused(problem.to_owned()));
            }
            Ok(())
        }
        Expr::Compare(it) => {
            expression(&it.expr)?;
            expressions(it.ops.iter().map(|op| &op.expr))
        }
        Expr::IfExpr(it) => {
            expressions([&it.test_expr, &it.true_expr])?;
            expressions(it.false_expr.as_ref())
        }
        Expr::Filter(it) => {
            expressions(it.expr.as_ref())?;
            arguments(&it.args)
        }
        Expr::Test(it) => {
            expression(&it.expr)?;
            arguments(&it.args)
        }
        Expr::GetAttr(it) => expression(&it.expr),
        Expr::GetItem(it) => expressions([&it.expr, &it.subscript_expr]),
        Expr::Call(it) => call(it),
        Expr::List(it) => expressions(&it.items),
        Expr::Tuple(it) => expressions(&it.items),
        Expr::Map(it) => expressions(it.keys.iter().chain(&it.values)),
    }
}
