//! The columns of a history's files, and what stands in them: `HISTORY.md` says it to those who
//! read them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Beginning, Contradiction, Holding, HowEnded};
use crate::handoff::naming::Naming;
use crate::ip::address::Prefix96;

/// Rows of a page: as many as are read for one of them.
const PAGE_ROWS: usize = 8192;
/// Octets of a dictionary of clients, which is read whole for one of them; where there are more,
/// they stand in the pages themselves.
const DICTIONARY_OCTETS: usize = 2 << 20;
/// How often a file is read for a client that is not in it.
const BLOOM_FALSE: f64 = 0.01;

/// Who had a port when.
const HELD: &str = "
message held {
    required binary nat64 (STRING);
    required int32 port (INTEGER(16, false));
    required binary client (STRING);
    required int32 client_port (INTEGER(16, false));
    optional binary local (STRING);
    optional binary prefix (STRING);
    optional int64 since (TIMESTAMP(MICROS, true));
    optional int64 until (TIMESTAMP(MICROS, true));
    optional int64 perhaps_until (TIMESTAMP(MICROS, true));
    optional binary came (STRING);
    optional binary ended (STRING);
}";

/// What NAT64s said against that.
const CONFLICTS: &str = "
message conflicts {
    required binary nat64 (STRING);
    required int32 port (INTEGER(16, false));
    required binary client (STRING);
    required int32 client_port (INTEGER(16, false));
    optional binary local (STRING);
    required int64 at (TIMESTAMP(MICROS, true));
}";

/// Whom an address of the pool stood for when.
const NAMES: &str = "
message names {
    required binary pool (STRING);
    required binary client (STRING);
    optional int64 since (TIMESTAMP(MICROS, true));
    optional int64 until (TIMESTAMP(MICROS, true));
    optional int64 perhaps_until (TIMESTAMP(MICROS, true));
}";

/// When tables began anew.
const BEGUN: &str = "
message begun {
    required binary nat64 (STRING);
    optional binary local (STRING);
    required int64 at (TIMESTAMP(MICROS, true));
}";

/// What the rows of a file are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Held,
    Conflicts,
    Names,
    Begun,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Of names, the address of the pool.
    Nat64,
    Port,
    /// Of names, perhaps a network.
    Client,
    ClientPort,
    Local,
    Prefix,
    Since,
    Until,
    PerhapsUntil,
    Came,
    Ended,
    At,
}

impl Kind {
    /// All, each before those that are only written, and only removed, with it.
    pub(super) const ALL: [Self; 4] = [Kind::Conflicts, Kind::Names, Kind::Begun, Kind::Held];

    /// The folder of its files.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Kind::Held => "held",
            Kind::Conflicts => "conflicts",
            Kind::Names => "names",
            Kind::Begun => "begun",
        }
    }

    /// In the order in which they stand in the files: the first one, and the port where there is
    /// one, are those that they are sorted by.
    pub(super) fn columns(self) -> &'static [Column] {
        use Column::{
            At, Came, Client, ClientPort, Ended, Local, Nat64, PerhapsUntil, Port, Prefix, Since,
            Until,
        };
        match self {
            Kind::Held => &[
                Nat64,
                Port,
                Client,
                ClientPort,
                Local,
                Prefix,
                Since,
                Until,
                PerhapsUntil,
                Came,
                Ended,
            ],
            Kind::Conflicts => &[Nat64, Port, Client, ClientPort, Local, At],
            Kind::Names => &[Nat64, Client, Since, Until, PerhapsUntil],
            Kind::Begun => &[Nat64, Local, At],
        }
    }

    /// Where a column stands, if there is such a column.
    pub(super) fn place(self, column: Column) -> Option<usize> {
        self.columns().iter().position(|&other| other == column)
    }

    /// By which time the rows of a port are sorted.
    pub(super) fn time(self) -> Column {
        match self {
            Kind::Held | Kind::Names => Column::Since,
            Kind::Conflicts | Kind::Begun => Column::At,
        }
    }

    pub(super) fn schema(self) -> Result<TypePtr, ParquetError> {
        let text = match self {
            Kind::Held => HELD,
            Kind::Conflicts => CONFLICTS,
            Kind::Names => NAMES,
            Kind::Begun => BEGUN,
        };
        parse_message_type(text).map(Arc::new)
    }

    /// How the columns are written.
    pub(super) fn properties(self, row_group: usize) -> Result<WriterPropertiesPtr, ParquetError> {
        let sorted = [Column::Nat64, Column::Port, self.time()];
        let sorted = sorted.into_iter().filter_map(|column| self.place(column)).map(|place| {
            // A time that is not known comes first. There are few columns.
            SortingColumn { column_idx: place as i32, descending: false, nulls_first: true }
        });
        let client = ColumnPath::from("client");
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("nat64handoff version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_dictionary_page_size_limit(DICTIONARY_OCTETS)
            .set_column_index_truncate_length(None)
            .set_sorting_columns(Some(sorted.collect()))
            .set_column_bloom_filter_fpp(client.clone(), BLOOM_FALSE)
            .set_column_bloom_filter_max_ndv(client, row_group as u64);
        for numbers in ["port", "client_port", "since", "until", "perhaps_until", "at"] {
            let path = ColumnPath::from(numbers);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
        Ok(Arc::new(properties.build()))
    }
}

/// A row: somebody had a port, or a NAT64 said so; or an address of the pool stood for somebody; or
/// a table began anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HistoryRow {
    Held(Holding),
    Conflict(Contradiction),
    Name(Naming),
    Begun(Beginning),
}

impl HistoryRow {
    pub(super) fn nat64(&self) -> SocketAddrV4 {
        match self {
            HistoryRow::Held(held) => held.nat64,
            HistoryRow::Conflict(said) => said.nat64,
            // What it is sorted by.
            HistoryRow::Name(name) => SocketAddrV4::new(name.pool, 0),
            HistoryRow::Begun(begun) => SocketAddrV4::new(begun.nat64, 0),
        }
    }

    pub(super) fn client(&self) -> Ipv6Addr {
        match self {
            HistoryRow::Held(held) => held.client,
            HistoryRow::Conflict(said) => said.client,
            HistoryRow::Name(name) => name.client.addr(),
            HistoryRow::Begun(_) => Ipv6Addr::UNSPECIFIED,
        }
    }

    pub(super) fn client_port(&self) -> u16 {
        match self {
            HistoryRow::Held(held) => held.client_port,
            HistoryRow::Conflict(said) => said.client_port,
            HistoryRow::Name(_) | HistoryRow::Begun(_) => 0,
        }
    }

    pub(super) fn local(&self) -> Option<Ipv4Addr> {
        match self {
            HistoryRow::Held(held) => held.local,
            HistoryRow::Conflict(said) => said.local,
            HistoryRow::Name(_) => None,
            HistoryRow::Begun(begun) => begun.local,
        }
    }

    /// The same of that client.
    pub(super) fn of(mut self, its: Ipv6Addr) -> Self {
        match &mut self {
            HistoryRow::Held(Holding { client, .. })
            | HistoryRow::Conflict(Contradiction { client, .. }) => *client = its,
            HistoryRow::Name(_) | HistoryRow::Begun(_) => {}
        }
        self
    }

    pub(super) fn held(&self) -> Option<&Holding> {
        match self {
            HistoryRow::Held(held) => Some(held),
            _ => None,
        }
    }

    pub(super) fn name(&self) -> Option<Naming> {
        match self {
            HistoryRow::Name(name) => Some(*name),
            _ => None,
        }
    }

    /// What stands in a column of times.
    pub(super) fn time(&self, column: Column) -> Option<Timestamp> {
        match (self, column) {
            (HistoryRow::Held(held), Column::Since) => held.from,
            (HistoryRow::Held(held), Column::Until) => held.until,
            (HistoryRow::Held(held), Column::PerhapsUntil) => held.perhaps_until,
            (HistoryRow::Conflict(said), Column::At) => Some(said.at),
            (HistoryRow::Begun(begun), Column::At) => Some(begun.at),
            (HistoryRow::Name(name), Column::Since) => name.from,
            (HistoryRow::Name(name), Column::Until) => name.until,
            (HistoryRow::Name(name), Column::PerhapsUntil) => name.perhaps_until,
            _ => None,
        }
    }
}

/// What the column `ended` says.
pub(super) fn word(ended: HowEnded) -> &'static str {
    match ended {
        HowEnded::Deleted => "deleted",
        HowEnded::Replaced => "replaced",
        HowEnded::Initialized => "initialized",
    }
}

/// The counterpart of [`word`].
pub(super) fn of_word(word: &[u8]) -> Option<HowEnded> {
    [HowEnded::Deleted, HowEnded::Replaced, HowEnded::Initialized]
        .into_iter()
        .find(|&ended| self::word(ended).as_bytes() == word)
}

/// `64:ff9b::/96`
pub(super) fn of_prefix(text: &[u8]) -> Option<Prefix96> {
    let address = std::str::from_utf8(text).ok()?.strip_suffix("/96")?;
    address.parse::<Ipv6Addr>().ok()?.octets().first_chunk().copied().map(Prefix96)
}

/// By what the addresses of NAT64s are sorted: as they are written, as the column has them.
pub(super) fn text_key(address: Ipv4Addr) -> [u8; 15] {
    let mut key = [0; 15];
    let text = address.to_string();
    key[..text.len()].copy_from_slice(text.as_bytes());
    key
}

/// Texts, in one piece of memory.
#[derive(Default)]
pub(super) struct Texts {
    octets: Vec<u8>,
    spans: Vec<TextSpan>,
}

/// Where a text begins, and how long it is.
type TextSpan = (usize, usize);

impl Texts {
    /// The text of one more row, which `write` appends, unless it has that of the row before.
    pub(super) fn push(&mut self, is_same: bool, write: impl FnOnce(&mut Vec<u8>)) {
        match self.spans.last() {
            Some(&last) if is_same => self.spans.push(last),
            _ => {
                let span = self.add(write);
                self.again(span);
            }
        }
    }

    /// A text that `write` appends, to be that of rows.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> TextSpan {
        let begin = self.octets.len();
        write(&mut self.octets);
        (begin, self.octets.len() - begin)
    }

    /// One more row, with a text that is there already.
    pub(super) fn again(&mut self, span: TextSpan) {
        self.spans.push(span);
    }

    pub(super) fn into_values(self) -> Vec<ByteArray> {
        let all = ByteArray::from(self.octets);
        self.spans.into_iter().map(|(begin, length)| all.slice(begin, length)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_the_schema() {
        for kind in Kind::ALL {
            let schema = kind.schema().unwrap();
            assert_eq!(schema.get_fields().len(), kind.columns().len());
            assert_eq!(
                schema.get_fields()[kind.place(kind.time()).unwrap()].name(),
                match kind {
                    Kind::Held | Kind::Names => "since",
                    Kind::Conflicts | Kind::Begun => "at",
                }
            );
        }
        assert_eq!(of_word(b"replaced"), Some(HowEnded::Replaced));
        assert_eq!(of_prefix(b"64:ff9b::/96").unwrap().to_string(), "64:ff9b::/96");
        assert!(text_key(Ipv4Addr::new(192, 0, 2, 10)) < text_key(Ipv4Addr::new(192, 0, 2, 9)));
    }
}
