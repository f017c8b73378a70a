// Prints docs/catalog.md from the table of the catalog, for `make docs`.
#include "catalog/catalog.h"

#include <stdio.h>

int main(void) {
  zmi_text page = {0};
  if (zmi_catalog_page(&page) != ZM_OK) {
    fprintf(stderr, "%s\n", zm_last_error());
    return 1;
  }
  fputs(zmi_text_str(&page), stdout);
  zmi_text_release(&page);
  return 0;
}
