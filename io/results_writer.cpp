#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <type_traits>

#include "io/atomic_file.hpp"
#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/hdf5_handle.hpp"
#include "io/hdf5_memory.hpp"
#include "io/results.hpp"

namespace fp4scope::io {
namespace {

template <typename T>
hid_t stored_type() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5T_STD_U8LE;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5T_STD_I32LE;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5T_STD_I64LE;
  if constexpr (std::is_same_v<T, float>) return H5T_IEEE_F32LE;
  if constexpr (std::is_same_v<T, double>) return H5T_IEEE_F64LE;
}

/// UTF-8 of a fixed width, filled up with zeros; or of any length.
Hdf5Handle text_type(std::size_t width) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, width);
  H5Tset_cset(type, H5T_CSET_UTF8);
  H5Tset_strpad(type, width == H5T_VARIABLE ? H5T_STR_NULLTERM : H5T_STR_NULLPAD);
  return type;
}

/// One HDF5 file being built.
class Image {
 public:
  explicit Image(const std::string& where) : where_(where) {
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS));
    const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE));
    memory_.use_for(access);
    check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110));
    order_and_no_time(creation);
    file_ = Hdf5Handle(check(H5Fcreate(where.c_str(), H5F_ACC_TRUNC, creation, access)));
  }

  hid_t root() const { return file_; }

  /// Makes the groups above `path`, in the order in which they are first needed.
  void make_groups_above(const std::string& path) {
    const Hdf5Handle creation(H5Pcreate(H5P_GROUP_CREATE));
    order_and_no_time(creation);
    for (std::size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      const std::string group = path.substr(0, slash);
      if (!groups_.insert(group).second) continue;
      const Hdf5Handle made(H5Gcreate2(file_, group.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT));
      if (!made.valid()) throw Error(where_, "cannot make the group " + in_quotes(group), "a dataset has that name");
    }
  }

  /// A dataset of `count` elements of `type` at an absolute path, whose attributes follow.
  Hdf5Handle put(const std::string& path, hid_t type, const std::vector<std::int64_t>& shape, const void* data) {
    check_path(path);
    make_groups_above(path);
    const std::vector<hsize_t> axes(shape.begin(), shape.end());
    const Hdf5Handle space(axes.empty() ? H5Screate(H5S_SCALAR)
                                        : H5Screate_simple(static_cast<int>(axes.size()), axes.data(), nullptr));
    const Hdf5Handle creation = dataset_creation(axes, check(H5Tget_size(type)));
    Hdf5Handle dataset(H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT));
    if (!dataset.valid())
      throw Error(where_, "cannot make the dataset " + in_quotes(path), "its name is taken or too long");
    check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
    return dataset;
  }

  void attribute(hid_t owner, const std::string& name, std::int64_t value) {
    put_attribute(owner, name, H5T_STD_I64LE, &value);
  }
  void attribute(hid_t owner, const std::string& name, const std::string& text) {
    const char* const characters = text.c_str();
    put_attribute(owner, name, text_type(H5T_VARIABLE), &characters);
  }

  /// Ends the building and writes the bytes.
  void write_to(AtomicFile& file) {
    check(H5Fflush(file_, H5F_SCOPE_GLOBAL));
    file_ = Hdf5Handle();
    file.append(memory_.bytes());
  }

 private:
  template <typename T>
  T check(T result) const {
    return hdf5_check(result, where_, "HDF5 cannot build the file", "is there memory left?");
  }

  /// Members keep the order of their creation; nothing records when that was.
  void order_and_no_time(hid_t creation) const {
    check(H5Pset_link_creation_order(creation, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED));
    check(H5Pset_obj_track_times(creation, false));
  }

  void check_path(const std::string& path) const {
    std::string_view rest = path;
    bool usable = rest.starts_with('/') && rest.find('\0') == std::string_view::npos;
    while (usable && !rest.empty()) {
      rest.remove_prefix(1);
      const std::string_view part = rest.substr(0, rest.find('/'));
      usable = !part.empty() && part != ".";
      rest.remove_prefix(part.size());
    }
    if (!usable) throw Error(where_, in_quotes(path) + " is no dataset path", "absolute, no part empty or '.'");
    if (!datasets_.insert(path).second) throw Error(where_, "two datasets are named " + in_quotes(path));
  }

  /// Chunks of about a MiB, whole along the last axes. HDF5 neither chunks nor checks a scalar or an empty dataset.
  Hdf5Handle dataset_creation(const std::vector<hsize_t>& axes, std::size_t element_bytes) const {
    constexpr int deflate_level = 6;
    hsize_t room = std::max<hsize_t>(1, (hsize_t{1} << 20) / element_bytes);
    Hdf5Handle creation(H5Pcreate(H5P_DATASET_CREATE));
    check(H5Pset_obj_track_times(creation, false));
    if (axes.empty() || std::find(axes.begin(), axes.end(), hsize_t{0}) != axes.end()) return creation;
    std::vector<hsize_t> chunk(axes.size());
    for (std::size_t i = axes.size(); i-- > 0;) {
      chunk[i] = std::min(axes[i], room);
      room = std::max<hsize_t>(1, room / chunk[i]);
    }
    check(H5Pset_chunk(creation, static_cast<int>(chunk.size()), chunk.data()));
    check(H5Pset_shuffle(creation));
    check(H5Pset_deflate(creation, deflate_level));
    check(H5Pset_fletcher32(creation));
    return creation;
  }

  void put_attribute(hid_t owner, const std::string& name, hid_t type, const void* value) const {
    const Hdf5Handle space(H5Screate(H5S_SCALAR));
    const Hdf5Handle made(check(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT)));
    check(H5Awrite(made, type, value));
  }

  std::string where_;
  Hdf5Memory memory_;
  Hdf5Handle file_;
  std::set<std::string> groups_;
  mutable std::set<std::string> datasets_;
};

/// Every row has a cell for each column, of the first row's type.
void check_rows(const std::string& where, const std::vector<Column>& columns, const std::vector<Record>& records) {
  for (std::size_t r = 0; r < records.size(); ++r) {
    const std::string row = "row " + std::to_string(r);
    if (records[r].row.size() != columns.size()) {
      throw Error(where, row + " has " + std::to_string(records[r].row.size()) + " cells for " +
                             std::to_string(columns.size()) + " columns");
    }
    for (std::size_t c = 0; c < columns.size(); ++c) {
      if (records[r].row[c].index() == records[0].row[c].index()) continue;
      throw Error(where, row + " has another type in column " + in_quotes(columns[c].name) + " than row 0");
    }
  }
}

template <typename T>
Hdf5Handle put_numbers(Image& image, const std::string& path, const std::vector<Record>& records, std::size_t column) {
  std::vector<T> values;
  values.reserve(records.size());
  for (const Record& record : records) values.push_back(std::get<T>(record.row[column]));
  return image.put(path, stored_type<T>(), {static_cast<std::int64_t>(values.size())}, values.data());
}

/// As wide as the longest text, at least 1.
Hdf5Handle put_texts(Image& image, const std::string& path, const std::vector<Record>& records, std::size_t column) {
  std::size_t width = 1;
  for (const Record& record : records) width = std::max(width, std::get<std::string>(record.row[column]).size());
  std::string table;
  for (const Record& record : records) {
    std::string cell = std::get<std::string>(record.row[column]);
    cell.resize(width);
    table += cell;
  }
  return image.put(path, text_type(width), {static_cast<std::int64_t>(records.size())}, table.data());
}

/// Without a row to tell its type, a column is text if it has no unit, else double.
Hdf5Handle put_column(Image& image, const Column& column, const std::vector<Record>& records, std::size_t index) {
  const std::string path = "/table/" + column.name;
  const bool is_text =
      records.empty() ? column.unit.empty() : std::holds_alternative<std::string>(records[0].row[index]);
  if (is_text) return put_texts(image, path, records, index);
  const bool is_integer = !records.empty() && std::holds_alternative<std::int64_t>(records[0].row[index]);
  if (is_integer) return put_numbers<std::int64_t>(image, path, records, index);
  return put_numbers<double>(image, path, records, index);
}

void put_table(Image& image, const std::string& where, const std::vector<Column>& columns,
               const std::vector<Record>& records) {
  check_rows(where, columns, records);
  image.make_groups_above("/table/");
  std::string names;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    if (columns[c].name.find_first_of(",/") != std::string::npos) {
      throw Error(where, "the column name " + in_quotes(columns[c].name) + " has a comma or a slash");
    }
    const Hdf5Handle dataset = put_column(image, columns[c], records, c);
    image.attribute(dataset, "unit", columns[c].unit);
    image.attribute(dataset, "description", columns[c].description);
    names += (c > 0 ? "," : "") + columns[c].name;
  }
  const Hdf5Handle table(H5Gopen2(image.root(), "/table", H5P_DEFAULT));
  image.attribute(table, "columns", names);
}

void put_dataset(Image& image, const std::string& where, const Dataset& dataset) {
  std::visit(
      [&](const auto& values) {
        using T = typename std::decay_t<decltype(values)>::value_type;
        const std::optional<std::size_t> bytes = tensor_bytes(dataset.shape, 8 * sizeof(T));
        if (!bytes || *bytes != values.size() * sizeof(T) || dataset.shape.size() > H5S_MAX_RANK) {
          throw Error(where, "the shape of " + in_quotes(dataset.path) + " does not fit its data");
        }
        const Hdf5Handle made = image.put(dataset.path, stored_type<T>(), dataset.shape, values.data());
        for (const auto& [name, text] : dataset.attributes) image.attribute(made, name, text);
      },
      dataset.data);
}

}  // namespace

void write_results(const std::string& path, const Attributes& attributes, const std::vector<Column>& columns,
                   const std::vector<Record>& records) {
  const std::string where = shown(path);
  AtomicFile file(path);  // first: a path that cannot be written is told before the work
  const Hdf5Session session;
  Image image(where);
  for (const auto& [name, value] : attributes) {
    std::visit([&, &key = name](const auto& v) { image.attribute(image.root(), key, v); }, value);
  }
  put_table(image, where, columns, records);
  for (const Record& record : records) {
    for (const Dataset& dataset : record.datasets) put_dataset(image, where, dataset);
  }
  image.write_to(file);
  file.commit();
}

}  // namespace fp4scope::io
