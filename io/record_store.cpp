#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <utility>

#include "io/atomic_file.hpp"
#include "io/complain.hpp"
#include "io/mapped_file.hpp"
#include "io/record_bytes.hpp"
#include "io/results.hpp"

namespace fp4scope::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view record_ending = ".record";
constexpr std::string_view note_ending = ".note";

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// The path of a key's file. A key must stay inside the folder and apart from what begins with a dot.
std::string path_of(const std::string& directory, const std::string& key, std::string_view ending) {
  constexpr std::size_t longest = 200;  // with the ending and AtomicFile's, below the 255 of most file systems
  const bool usable = !key.empty() && key.size() <= longest && key[0] != '.' && key.find('/') == std::string::npos &&
                      key.find('\0') == std::string::npos;
  if (!usable) throw Error(shown(directory), "the key " + in_quotes(key) + " is no file name");
  return directory + "/" + key + std::string(ending);
}

/// Did RecordStore write a file of that name? Its temporary files count, they are left behind by a kill.
bool is_ours(std::string_view name) {
  const std::string_view stem = name.substr(0, name.rfind(".tmp-"));
  return stem.ends_with(record_ending) || stem.ends_with(note_ending);
}

std::vector<std::string> file_names(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code failure;
  for (fs::directory_iterator entry(directory, failure), end; !failure && entry != end; entry.increment(failure)) {
    names.push_back(entry->path().filename().string());
  }
  if (failure) throw system_failure(directory, "list the folder", failure.value());
  return names;
}

}  // namespace

RecordStore::RecordStore(std::string directory) : directory_(std::move(directory)) {
  if (::mkdir(directory_.c_str(), 0777) == 0) return;
  const int number = errno;
  std::error_code ignored;
  if (number == EEXIST && fs::is_directory(directory_, ignored)) return;
  throw system_failure(directory_, "make the folder", number);
}

void RecordStore::put(const std::string& key, const Record& record) {
  AtomicFile file(path_of(directory_, key, record_ending));
  file.append(record_to_bytes(record));
  file.commit(Durability::cached);  // the checksum tells what a power failure tore
}

bool RecordStore::has(const std::string& key) const {
  const std::string path = path_of(directory_, key, record_ending);
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && is_whole_record(text_of(MappedFile(path)));
}

Record RecordStore::get(const std::string& key) const {
  const MappedFile file(path_of(directory_, key, record_ending));
  return record_from_bytes(text_of(file), shown(file.path()));
}

std::vector<std::string> RecordStore::keys() const {
  std::vector<std::string> keys;
  for (const std::string& name : file_names(directory_)) {
    if (name.ends_with(record_ending)) keys.push_back(name.substr(0, name.size() - record_ending.size()));
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

std::string RecordStore::note(const std::string& name) const {
  const std::string path = path_of(directory_, name, note_ending);
  std::error_code ignored;
  return fs::exists(path, ignored) ? read_text_file(path) : "";
}

void RecordStore::put_note(const std::string& name, const std::string& text) {
  write_text_file(path_of(directory_, name, note_ending), text);
}

void RecordStore::remove() {
  for (const std::string& name : file_names(directory_)) {
    const std::string path = directory_ + "/" + name;
    if (is_ours(name) && ::unlink(path.c_str()) != 0) throw system_failure(path, "remove", errno);
  }
  ::rmdir(directory_.c_str());  // stays if somebody else keeps files in it
}

}  // namespace fp4scope::io
