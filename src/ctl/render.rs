//! How a reply looks in each `--write-out` format.

use std::fmt::Display;

use comfy_table::Cell;
use comfy_table::CellAlignment;
use comfy_table::ContentArrangement;
use comfy_table::ContentLineStyle;
use comfy_table::LineStyle;
use comfy_table::Table;
use comfy_table::TableStyle;

use crate::ctl::go;
use crate::ctl::json::Json;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::mvccpb::KeyValue;

/// A format of `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Table,
    Json,
    Fields,
    Protobuf,
}

impl Format {
    pub fn parse(name: &str) -> Option<Format> {
        Some(match name {
            "simple" => Format::Simple,
            "table" => Format::Table,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "protobuf" => Format::Protobuf,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Table => "table",
            Format::Json => "json",
            Format::Fields => "fields",
            Format::Protobuf => "protobuf",
        }
    }
}

/// A reply that can be printed. Formats a reply does not have are not in `formats`.
pub trait Render {
    fn formats(&self) -> &'static [Format] {
        use Format::*;
        &[Simple, Json, Fields, Protobuf]
    }

    fn simple(&self, page: &mut Page);

    fn json(&self, hex: bool) -> Json;

    fn fields(&self, _: &mut Page) {}

    fn table(&self) -> Grid {
        Grid::default()
    }

    fn protobuf(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Prints a reply; nothing if it does not come in this format.
pub fn render(reply: &dyn Render, format: Format, hex: bool) -> Option<Vec<u8>> {
    if !reply.formats().contains(&format) {
        return None;
    }
    let mut page = Page::new(hex);
    match format {
        Format::Simple => reply.simple(&mut page),
        Format::Fields => reply.fields(&mut page),
        Format::Json => page.line(reply.json(hex)),
        Format::Table => page.line(reply.table()),
        Format::Protobuf => page.text = reply.protobuf(),
    }
    Some(page.text)
}

/// Lines of output, which may hold bytes that are no text.
pub struct Page {
    text: Vec<u8>,
    hex: bool,
}

impl Page {
    pub fn new(hex: bool) -> Page {
        Page {
            text: Vec::new(),
            hex,
        }
    }

    pub fn line(&mut self, text: impl Display) {
        self.text.extend_from_slice(format!("{text}\n").as_bytes());
    }

    /// A key or value on its own line, escaped byte by byte if hex was asked for.
    pub fn raw(&mut self, bytes: &[u8]) {
        if self.hex {
            let escaped = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            self.text.extend(escaped.collect::<String>().bytes());
        } else {
            self.text.extend_from_slice(bytes);
        }
        self.text.push(b'\n');
    }

    /// Bytes on their own line, as they are in any case.
    pub fn verbatim(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        self.text.push(b'\n');
    }

    pub fn key_value(&mut self, kv: &KeyValue) {
        self.raw(&kv.key);
        self.raw(&kv.value);
    }

    /// A named value of the `fields` format.
    pub fn field(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("\"{name}\" : {value}"));
    }

    pub fn quoted(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.field(name, go::quote(value.as_ref()));
    }

    /// An ID: decimal, or hexadecimal if asked for.
    pub fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.field(name, format_args!("{id:016x}"));
        } else {
            self.field(name, id);
        }
    }

    /// A lease ID, which has a sign.
    pub fn lease(&mut self, name: &str, id: i64) {
        if self.hex {
            self.field(name, go::lease_id(id));
        } else {
            self.field(name, id);
        }
    }

    pub fn header(&mut self, header: &Option<ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision != 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    /// The fields of a pair, each name with `prefix` before it.
    pub fn pair(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }
}

/// Rows under a heading, drawn with box lines, or with `+-|` if `KV_TABLE=ascii`.
#[derive(Default)]
pub struct Grid {
    pub heading: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

const BOX: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

const ASCII: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('+', '-', '+', '+'))
    .header_lines(ContentLineStyle::new('|', '|', '|'))
    .header_separator(LineStyle::new('+', '-', '+', '+'))
    .content_lines(ContentLineStyle::new('|', '|', '|'))
    .bottom_border(LineStyle::new('+', '-', '+', '+'));

impl Grid {
    fn draw(&self, style: TableStyle) -> String {
        let mut table = Table::new();
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.load_style(if self.rows.is_empty() {
            style.header_separator(LineStyle::none())
        } else {
            style
        });
        table.set_header(self.heading.iter().copied());
        table.add_rows(&self.rows);
        let widths = table.column_max_content_widths();
        let heading = self.heading.iter().zip(widths);
        // Centred, with an odd blank on the right.
        table.set_header(heading.map(|(name, width)| {
            let before = (usize::from(width) - name.len()) / 2;
            let after = usize::from(width) - name.len() - before;
            Cell::new(format!("{:before$}{name}{:after$}", "", ""))
                .set_alignment(CellAlignment::Left)
        }));
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

impl Display for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ascii = std::env::var_os("KV_TABLE").is_some_and(|style| style == "ascii");
        f.write_str(&self.draw(if ascii { ASCII } else { BOX }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: &[&[&str]]) -> Grid {
        let row = |row: &&[&str]| row.iter().map(|cell| cell.to_string()).collect();
        Grid {
            heading: &["ID", "NAME", "IS LEARNER"],
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn tables_have_centred_headings_and_cells_to_the_right() {
        let drawn = grid(&[&["4bf40", "s", "false"], &["1", "", "true"]]).draw(BOX);
        let wanted = "\
            ┌───────┬──────┬────────────┐\n\
            │  ID   │ NAME │ IS LEARNER │\n\
            ├───────┼──────┼────────────┤\n\
            │ 4bf40 │    s │      false │\n\
            │     1 │      │       true │\n\
            └───────┴──────┴────────────┘";
        assert_eq!(drawn, wanted);
        let drawn = grid(&[]).draw(ASCII);
        let wanted = "\
            +----+------+------------+\n\
            | ID | NAME | IS LEARNER |\n\
            +----+------+------------+";
        assert_eq!(drawn, wanted);
    }

    #[test]
    fn pairs_print_in_the_simple_and_fields_formats() {
        let kv = KeyValue {
            key: "a\n".into(),
            value: vec![0xff].into(),
            lease: 1,
            ..Default::default()
        };
        let mut page = Page::new(true);
        page.key_value(&kv);
        page.pair("Prev", &kv);
        let wanted = "\\x61\\x0a\n\\xff\n\"PrevKey\" : \"a\\n\"\n\"PrevCreateRevision\" : 0\n\
            \"PrevModRevision\" : 0\n\"PrevVersion\" : 0\n\"PrevValue\" : \"\\xff\"\n\
            \"PrevLease\" : 0000000000000001\n";
        assert_eq!(String::from_utf8(page.text).unwrap(), wanted);
    }
}
