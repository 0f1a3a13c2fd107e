// Results out: the HDF5 file of notebooks-data/schema.md, and the records that survive a kill.
//
// A run writes each finished result as a record, a file of its own, in OUT.h5.partial/. OUT.h5 is assembled from the
// records in the order of their keys and renamed into place, so it is whole or absent, and the same records give the
// same bytes (no time stamps, fixed chunking, fixed order).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fp4scope::io {

/// One value of a row. Every record of a file has the same columns with the same types.
using Cell = std::variant<std::int64_t, double, std::string>;

/// A column's meaning, written as HDF5 attributes.
struct Column {
  std::string name;
  std::string unit;  ///< "1" for a pure number, "" for text
  std::string description;
};

using Array = std::variant<std::vector<std::uint8_t>, std::vector<std::int32_t>, std::vector<std::int64_t>,
                           std::vector<float>, std::vector<double>>;

/// A dataset outside the table. `path` is absolute ("/runs/0003/scale_moves"); attributes are text.
struct Dataset {
  std::string path;
  std::vector<std::int64_t> shape;
  Array data;
  std::map<std::string, std::string> attributes;
};

struct Record {
  std::vector<Cell> row;  ///< in the order of the file's columns
  std::vector<Dataset> datasets;
};

/// Attributes of "/": text or integers.
using Attributes = std::map<std::string, std::variant<std::int64_t, std::string>>;

/// The folder of records beside OUT.h5.
class RecordStore {
 public:
  /// `directory` is made if need be, in a folder that exists.
  explicit RecordStore(std::string directory);

  /// Atomic: a record is whole or absent. `key` is a file name without an ending; keys sort as the table's rows.
  /// Throws Error for a key that is empty, longer than 200 bytes, begins with a dot or has a slash.
  void put(const std::string& key, const Record& record);
  /// Is there a whole record of this version? Reads it: a file that a power failure tore counts as absent, to be
  /// computed again.
  bool has(const std::string& key) const;
  /// Throws Error if the record is absent, torn or of another version.
  Record get(const std::string& key) const;
  /// Sorted. A torn record is listed too, so that an assembly fails in get() rather than miss a row.
  std::vector<std::string> keys() const;

  /// A small text kept beside the records (the configuration they belong to). "" if absent.
  std::string note(const std::string& name) const;
  void put_note(const std::string& name, const std::string& text);

  /// Removes the folder and all in it. Only files that this class writes are touched; with others in it, it stays.
  void remove();

 private:
  std::string directory_;
};

/// Writes the whole results file: /table/<column> 1-D, equal lengths, in the order of `records`; every record's
/// datasets; the attributes. Chunked, shuffled, deflated, fletcher32, no time stamps, groups in order of creation.
/// The attribute `columns` of /table lists its columns in order. Text columns have a fixed width: zeros at the end of
/// a text are lost. With no records, a column without a unit is text, any other double.
/// Throws Error: rows that differ from `columns` or from each other in type, a path used twice, a shape that doesn't
/// fit its data, a file that can't be written.
void write_results(const std::string& path, const Attributes& attributes, const std::vector<Column>& columns,
                   const std::vector<Record>& records);

/// The table of a results file, for the CSV and for `report`'s summary. Missing file or table: Error.
struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;
};
Table read_table(const std::string& path);

/// RFC 4180, one header line, doubles in the shortest form that reads back to the same bits.
std::string to_csv(const Table& table);

}  // namespace fp4scope::io
