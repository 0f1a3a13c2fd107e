// For the static program alone: what libhdf5.a's S3 driver would take from libcurl and libcrypto, so that neither has
// to be linked. fp4scope opens local files only, so none of these is ever reached; the null results make the driver
// fail.
extern "C" {
const void* EVP_sha256() { return nullptr; }
unsigned char* HMAC(const void*, const void*, int, const unsigned char*, unsigned long, unsigned char*, unsigned*) {
  return nullptr;
}
unsigned char* SHA256(const unsigned char*, unsigned long, unsigned char*) { return nullptr; }
void curl_easy_cleanup(void*) {}
void* curl_easy_init() { return nullptr; }
int curl_easy_perform(void*) { return 1; }
int curl_easy_setopt(void*, int, ...) { return 1; }
void curl_global_cleanup() {}
int curl_global_init(long) { return 1; }
void* curl_slist_append(void*, const char*) { return nullptr; }
void curl_slist_free_all(void*) {}
}
