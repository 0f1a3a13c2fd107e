// crosscheck has several things to compare; each is a file of its own, and app/crosscheck.cpp chooses.
#pragma once

#include "analysis/against_file.hpp"
#include "app/app.hpp"

namespace fp4scope::app {

/// What --against alone takes.
void add_against(CLI::App& command, analysis::AgainstFiles& files);

/// crosscheck --against THEIRS --input IN. 0: every block of every matrix agrees, 1: not all.
int run_against(analysis::AgainstFiles files, const std::string& out, bool brief, bool json);

/// crosscheck --device cuda. 0: every output is the model's, 1: not all.
struct DeviceCrosscheckWords {
  std::string device = "cuda";
  bool full = false, quick = false;
  std::vector<std::string> only;
  std::string out;
};
int run_device_crosscheck(const DeviceCrosscheckWords& words, bool json);

/// A table as a results file, with what it is of.
void write_crosscheck(const std::string& path, const std::string& kind, const io::Table& table,
                      const io::Attributes& more);

}  // namespace fp4scope::app
