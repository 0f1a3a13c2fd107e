// What the verbs that write a model's folder share: signals, progress, and the words of a run that was stopped.
#pragma once

#include <optional>

#include "analysis/model_folder.hpp"
#include "app/app.hpp"

namespace fp4scope::app {

/// Everything but the words of the command line and the progress.
void equip(analysis::FolderWork& work);

/// What a run that was stopped has to say. Finished shards may wait beside `out`.
void say_stopped(const std::string& out);

/// `verb(options)`, or nothing, with a word, where a signal stopped it: exit code 130.
template <class Options, class Summary>
std::optional<Summary> run_folder_work(Options& options, Summary (*verb)(const Options&)) {
  equip(options);
  Progress progress;
  options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
  Summary summary = verb(options);
  if (!summary.interrupted) return summary;
  say_stopped(options.out);
  return {};
}

}  // namespace fp4scope::app
