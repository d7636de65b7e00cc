//! Checks of a template's source before it is compiled, since compiling takes no fuel.
//!
//! - minijinja's parser and compiler recurse for each operator of `1 + 1 + 1 ...`, and a few
//!   hundred thousand of them overflow the stack, which aborts the process;
//! - the compiler folds constants. It limits texts to 1024 bytes, but not a multiplied list:
//!   `"" ~ ["x"] * 100000000` would produce a text of 500 MB before rendering starts.

use minijinja::{
    Error, ErrorKind,
    machinery::{
        Token,
        ast::{BinOpKind, Call, CallArg, Expr, Macro, Stmt},
        parse, tokenize,
    },
    syntax::SyntaxConfig,
};

/// The maximum length of a source in bytes. The chat templates on the Hub have 1 to 20 KB.
const BYTES_MAX: usize = 1 << 20;
/// The maximum number of tokens within one `{{ }}` or `{% %}`.
const TAG_TOKENS_MAX: usize = 1000;
/// The maximum number of `elif` in a template, which the parser nests.
const ELIFS_MAX: usize = 500;

/// Fails if a template is too long or too deeply nested, or multiplies a constant list.
pub(super) fn check(source: &str, name: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    if source.len() > BYTES_MAX {
        let len = source.len();
        return Err(rejected(format!(
            "template too long: {len} bytes, at most {BYTES_MAX} are allowed"
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
            let problem = format!("a tag has more than {TAG_TOKENS_MAX} tokens; split it");
            return Err(rejected(problem));
        }
        if elifs > ELIFS_MAX {
            return Err(rejected(format!(
                "the template has more than {ELIFS_MAX} `elif`; use a map"
            )));
        }
    }
    statements(&[parse(source, name, syntax)?])
}

fn rejected(problem: String) -> Error {
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

/// Checks the parts of an expression before the expression itself, so that no unchecked constant is
/// folded here.
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
                // The compiler limits the size of other constants.
                side.as_const().is_some_and(|value| value.as_object().is_some())
            };
            if matches!(it.op, BinOpKind::Mul) && (is_list(&it.left) || is_list(&it.right)) {
                let problem = "the template multiplies a constant list; write a loop";
                return Err(rejected(problem.to_owned()));
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
