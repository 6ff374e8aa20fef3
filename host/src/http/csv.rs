//! Rows as CSV (RFC 4180), with a header.

use serde::Serialize;

/// The members of a row called `columns`, as text, in their order. Null has none.
pub fn cells<'a>(row: &impl Serialize, columns: impl IntoIterator<Item = &'a str>) -> Vec<Option<String>> {
    let mut row = serde_json::to_value(row).unwrap_or_default();
    let cell = |name: &str| match row.get_mut(name).map(serde_json::Value::take) {
        Some(serde_json::Value::String(text)) => Some(text),
        None | Some(serde_json::Value::Null) => None,
        Some(other) => Some(other.to_string()),
    };
    columns.into_iter().map(cell).collect()
}

/// The text that `rows` make, of the members called `columns`.
pub fn written(columns: &[&str], rows: &[impl Serialize]) -> String {
    let mut text = line(columns.iter().map(|name| Some(*name)));
    for row in rows {
        let cells = cells(row, columns.iter().copied());
        text.push_str(&line(cells.iter().map(Option::as_deref)));
    }
    text
}

fn line<'a>(cells: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let quoted = |cell: Option<&str>| match cell {
        None => String::new(),
        Some(text) if text.contains(['"', ',', '\r', '\n']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(text) => text.to_owned(),
    };
    let mut line: Vec<String> = cells.into_iter().map(quoted).collect();
    let last = line.pop().unwrap_or_default();
    line.push(format!("{last}\r\n"));
    line.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let rows = [
            json!({ "a": "a,b", "b": null, "c": "say \"c\"", "d": "d\ne", "e": "f" }),
            json!({ "e": { "x": 1 }, "a": 7, "z": 1 }),
        ];
        let expected = "a,b,c,d,e\r\n\"a,b\",,\"say \"\"c\"\"\",\"d\ne\",f\r\n7,,,,\"{\"\"x\"\":1}\"\r\n";
        assert_eq!(written(&["a", "b", "c", "d", "e"], &rows), expected);
    }
}
