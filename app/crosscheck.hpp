// crosscheck has several things to compare; each is a file of its own, and app/crosscheck.cpp chooses.
#pragma once

#include "analysis/against_file.hpp"
#include "app/app.hpp"

namespace fp4scope::app {

/// What --against alone takes.
void add_against(CLI::App& command, analysis::AgainstFiles& files);

/// crosscheck --against THEIRS --input IN. 0: every block of every matrix agrees, 1: not all.
int run_against(analysis::AgainstFiles files, const std::string& out, bool brief, bool json);

}  // namespace fp4scope::app
