#include "app/folder_work.hpp"

#include <filesystem>

#include "io/checkpoint_writer.hpp"

namespace fp4scope::app {

void equip(analysis::FolderWork& work) {
  work.tool = tool();
  work.build = tool() + " " + git_commit();
  work.notice = say;
  catch_signals();
  work.stop = &stop_flag();
}

void say_stopped(const std::string& out) {
  const std::string partial = io::partial_of(out);
  std::error_code ignored;
  if (std::filesystem::exists(partial, ignored)) say("interrupted; finished shards wait in " + partial + " for --resume");
  else interrupted();
}

}  // namespace fp4scope::app
