#include <algorithm>
#include <cstring>
#include <string_view>

#include "io/complain.hpp"
#include "io/hdf5_handle.hpp"
#include "io/mapped_file.hpp"
#include "io/results.hpp"

namespace fp4scope::io {
namespace {

constexpr const char* mend = "give a results file of fp4scope sweep";

/// An attribute of text, "" if there is none.
std::string text_attribute(hid_t owner, const char* name, const std::string& where) {
  if (H5Aexists(owner, name) <= 0) return "";
  const Hdf5Handle attribute(hdf5_check(H5Aopen(owner, name, H5P_DEFAULT), where, "has an unreadable attribute", mend));
  const Hdf5Handle type(H5Aget_type(attribute));
  const Hdf5Handle space(H5Aget_space(attribute));
  if (H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_npoints(space) != 1) return "";
  if (H5Tis_variable_str(type) > 0) {
    char* characters = nullptr;
    hdf5_check(H5Aread(attribute, type, &characters), where, "has an unreadable attribute", mend);
    const std::string text = characters == nullptr ? "" : characters;
    H5free_memory(characters);
    return text;
  }
  std::string text(H5Tget_size(type), '\0');
  hdf5_check(H5Aread(attribute, type, text.data()), where, "has an unreadable attribute", mend);
  text.resize(std::strlen(text.c_str()));
  return text;
}

/// The columns' names: the attribute's list, else the members in the order of their creation, else of their names.
std::vector<std::string> column_names(hid_t table, const std::string& where) {
  std::vector<std::string> names;
  std::string_view list;
  const std::string attribute = text_attribute(table, "columns", where);
  for (list = attribute; !list.empty(); list.remove_prefix(std::min(list.size(), names.back().size() + 1))) {
    names.emplace_back(list.substr(0, list.find(',')));
  }
  if (!names.empty()) return names;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* to) -> herr_t {
    static_cast<std::vector<std::string>*>(to)->emplace_back(name);
    return 0;
  };
  if (H5Literate(table, H5_INDEX_CRT_ORDER, H5_ITER_INC, nullptr, collect, &names) < 0) {
    names.clear();
    hdf5_check(H5Literate(table, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), where, "has a broken /table");
  }
  return names;
}

template <typename T>
std::vector<Cell> numbers(hid_t dataset, hid_t memory_type, std::size_t count, const std::string& where) {
  std::vector<T> values(count);
  hdf5_check(H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), where, "cannot be read",
             "the file is damaged");
  return {values.begin(), values.end()};
}

std::vector<Cell> fixed_texts(hid_t dataset, hid_t type, std::size_t count, const std::string& where) {
  const std::size_t width = H5Tget_size(type);
  std::string table(count * width, '\0');
  hdf5_check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, table.data()), where, "cannot be read",
             "the file is damaged");
  std::vector<Cell> cells;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view cell = std::string_view(table).substr(i * width, width);
    cells.emplace_back(std::string(cell.substr(0, cell.find_last_not_of('\0') + 1)));
  }
  return cells;
}

std::vector<Cell> read_column(hid_t dataset, const std::string& where, std::uint64_t file_bytes) {
  const Hdf5Handle type(H5Dget_type(dataset));
  const Hdf5Handle space(H5Dget_space(dataset));
  if (H5Sget_simple_extent_ndims(space) != 1) throw Error(where, "is not one-dimensional", mend);
  const auto count = static_cast<std::size_t>(hdf5_check(H5Sget_simple_extent_npoints(space), where, "has no size"));
  // Deflate shrinks by 1032 at most: a claim beyond that is no data, and must not take the memory.
  const std::size_t bytes_each = std::max<std::size_t>(H5Tget_size(type), 1);
  if (count > file_bytes * 1032 / bytes_each) throw Error(where, "claims more data than the file holds", mend);
  switch (H5Tget_class(type)) {
    case H5T_INTEGER: return numbers<std::int64_t>(dataset, H5T_NATIVE_INT64, count, where);
    case H5T_FLOAT: return numbers<double>(dataset, H5T_NATIVE_DOUBLE, count, where);
    case H5T_STRING:
      if (H5Tis_variable_str(type) == 0) return fixed_texts(dataset, type, count, where);
      break;
    default: break;
  }
  throw Error(where, "is neither integers, floating-point numbers nor text of a fixed width", mend);
}

}  // namespace

Table read_table(const std::string& path) {
  const std::uint64_t file_bytes = MappedFile(path).bytes().size();  // says why if there is no such file
  const Hdf5Session session;
  const std::string where = shown(path);
  const Hdf5Handle file(
      hdf5_check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), where, "is not an HDF5 file", mend));
  const Hdf5Handle group(hdf5_check(H5Gopen2(file, "/table", H5P_DEFAULT), where, "has no /table", mend));
  Table table;
  for (const std::string& name : column_names(group, where)) {
    const std::string at = where + ", column " + in_quotes(name);
    const Hdf5Handle dataset(hdf5_check(H5Dopen2(group, name.c_str(), H5P_DEFAULT), at, "is missing", mend));
    const std::vector<Cell> cells = read_column(dataset, at, file_bytes);
    if (table.columns.empty()) table.rows.resize(cells.size());
    if (cells.size() != table.rows.size()) throw Error(at, "has another length than the columns before it", mend);
    table.columns.push_back({name, text_attribute(dataset, "unit", at), text_attribute(dataset, "description", at)});
    for (std::size_t r = 0; r < cells.size(); ++r) table.rows[r].push_back(cells[r]);
  }
  return table;
}

}  // namespace fp4scope::io
